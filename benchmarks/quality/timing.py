"""How many steps fit into a time that is given."""

import time
from collections.abc import Callable

import torch

WARM_UP, TIMED = 5, 10


def steps_within(seconds: float, step: Callable[[], object], *, least: int = 20, most: int = 20_000) -> int:
    """The steps that fit into `seconds`, by what a few of them take; they are really taken."""
    for _ in range(WARM_UP):
        step()
    synchronize()
    start = time.perf_counter()
    for _ in range(TIMED):
        step()
    synchronize()
    return max(least, min(most, int(seconds * TIMED / (time.perf_counter() - start))))


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
