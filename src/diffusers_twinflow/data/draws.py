"""The random choices of one sample, drawn before any of them is used."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..methods.randomness import BLOCK, Purpose, draw_numbers


class SampleDraw(NamedTuple):
    """Numbers in [0, 1), one for each choice, so that no choice moves another."""

    dropout: float
    caption: float
    left: float
    top: float
    flip: float

    @classmethod
    def at(cls, *key: int) -> "SampleDraw":
        """The draw of a key of a stream: the same after every resume."""
        return cls(*np.random.default_rng((*key, 1)).random(len(cls._fields)).tolist())

    @classmethod
    def at_positions(cls, seed: int, positions: Sequence[int]) -> list["SampleDraw"]:
        """The draws of positions of a run: the same in every batch and process and after every resume."""

        def draw(block_seed: int) -> np.ndarray:
            return np.random.default_rng(block_seed).random((BLOCK, len(cls._fields)))

        return [cls(*row) for row in draw_numbers(positions, seed, draw, Purpose.DATA).tolist()]
