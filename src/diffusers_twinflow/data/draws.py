"""The random choices of one sample, drawn before any of them is used."""

from typing import NamedTuple

import numpy as np


class SampleDraw(NamedTuple):
    """Numbers in [0, 1), one for each choice, so that no choice moves another."""

    dropout: float
    caption: float
    left: float
    top: float
    flip: float

    @classmethod
    def at(cls, *key: int) -> "SampleDraw":
        """The draw of a key, such as seed and position: the same in every process and after every resume."""
        return cls(*np.random.default_rng((*key, 1)).random(len(cls._fields)).tolist())
