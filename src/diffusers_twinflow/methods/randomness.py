"""Random numbers by position in the run, drawn in blocks of consecutive positions.

The numbers of a position depend only on the run's seed, the position and the sample's shape. So a run draws the same
numbers however its samples are split over micro-batches and processes, and after a resume. A batch that begins or ends
inside a block draws the whole block and uses its rows.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import groupby
from math import prod

import numpy as np
import torch

BLOCK = 64
NOISE_BLOCK_ELEMENTS = 2**20
"""Maximum number of noise elements that are drawn at once, to save memory. A larger sample is drawn as a whole."""


class Purpose(IntEnum):
    """What random numbers are used for. Each purpose has separate numbers."""

    NUMBERS = 1
    NOISE = 2
    FAKE_NOISE = 3
    RECTIFY_NOISE = 4
    DATA = 5
    AUTOENCODER = 6


def draw_numbers(
    positions: Sequence[int], seed: int, draw: Callable[[int], np.ndarray], purpose: Purpose = Purpose.NUMBERS
) -> np.ndarray:
    """Draw the numbers of B samples on the CPU.

    Args:
        positions: position of each of the B samples in the run.
        seed: seed of the run.
        draw: takes the seed of a block and returns its numbers, shape [BLOCK, ...].
        purpose: what the numbers are used for.

    Returns:
        Array of shape [B, ...].
    """
    blocks, rows = np.divmod(np.asarray(positions, dtype=np.int64), BLOCK)
    numbers, which = np.unique(blocks, return_inverse=True)
    drawn = [draw(_block_seed(seed, block, purpose)) for block in numbers.tolist()]
    return np.stack(drawn)[which, rows]


def draw_noise(
    positions: Sequence[int] | np.ndarray,
    shape: Sequence[int],
    *,
    seed: int,
    purpose: Purpose,
    device: torch.device | str,
) -> torch.Tensor:
    """Draw standard normal noise of B samples on the device, shape [B, *shape]. Nothing is drawn if B is 0."""
    size = min(BLOCK, max(1, NOISE_BLOCK_ELEMENTS // max(1, prod(shape))))
    blocks, rows = np.divmod(np.asarray(positions, dtype=np.int64), size)
    indices = torch.from_numpy(rows).to(device, non_blocking=True)
    noise = torch.empty((len(rows), *shape), device=device)
    block_noise = torch.empty((size, *shape), device=device)
    generator, start = torch.Generator(device), 0
    for block, members in groupby(blocks.tolist()):
        stop = start + len(list(members))
        generator.manual_seed(_block_seed(seed, block, purpose, *shape))
        block_noise.normal_(generator=generator)
        torch.index_select(block_noise, 0, indices[start:stop], out=noise[start:stop])
        start = stop
    return noise


def _block_seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
