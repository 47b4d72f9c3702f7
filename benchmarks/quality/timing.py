"""Measure how many steps fit into a given time."""

import time
from collections.abc import Callable

import torch


def steps_within(
    seconds: float,
    step: Callable[[], object],
    *,
    warm_up: int = 5,
    timed: int = 10,
    least: int = 20,
    most: int = 20_000,
) -> int:
    """Return the number of steps that fit into `seconds`, measured by taking a few of them."""
    for _ in range(warm_up):
        step()
    synchronize()
    start = time.perf_counter()
    for _ in range(timed):
        step()
    synchronize()
    return max(least, min(most, int(seconds * timed / (time.perf_counter() - start))))


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
