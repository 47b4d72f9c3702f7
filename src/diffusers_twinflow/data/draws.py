"""Draw the random numbers of one sample."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..methods.randomness import BLOCK, Purpose, draw_numbers


class SampleDraw(NamedTuple):
    """Random numbers in [0, 1), one per choice, so that no choice affects another."""

    dropout: float
    caption: float
    left: float
    top: float
    flip: float

    @classmethod
    def at(cls, *key: int) -> "SampleDraw":
        """Draw the numbers for a key of a stream. They are the same after every resume."""
        return cls(*np.random.default_rng((*key, 1)).random(len(cls._fields)).tolist())

    @classmethod
    def at_positions(cls, seed: int, positions: Sequence[int]) -> list["SampleDraw"]:
        """Draw the numbers for positions of a run. They are the same in every batch and process, and after a resume."""

        def draw(block_seed: int) -> np.ndarray:
            return np.random.default_rng(block_seed).random((BLOCK, len(cls._fields)))

        return [cls(*row) for row in draw_numbers(positions, seed, draw, Purpose.DATA).tolist()]
