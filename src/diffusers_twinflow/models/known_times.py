"""The times of a pass on the host, so that a network that depends on them does not wait for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_TIMES: ContextVar[np.ndarray | None] = ContextVar("times", default=None)


@contextmanager
def known_times(times: np.ndarray | None) -> Iterator[None]:
    """Tell networks the times of the samples of each pass inside the block.

    Without it, a network that depends on the times reads them from the device.

    Args:
        times: the values of `t`, shape [B]; `None` if the host does not know them.
    """
    token = _TIMES.set(times)
    try:
        yield
    finally:
        _TIMES.reset(token)


@contextmanager
def known_times_twice(count: int) -> Iterator[None]:
    """Inside the block, each pass runs the samples of the current pass twice, one copy after the other.

    Args:
        count: number of samples of the current pass, B.
    """
    times = times_on_host(count)
    with known_times(None if times is None else np.tile(times, 2)):
        yield


def times_on_host(count: int) -> np.ndarray | None:
    """Return the times of the current pass, or `None` if the host does not know them.

    Args:
        count: number of samples of the pass, B.

    Raises:
        ValueError: if the block is for another number of samples.
    """
    times = _TIMES.get()
    if times is not None and len(times) != count:
        raise ValueError(
            f"known_times has {len(times)} times, but the pass has {count} samples: give the time of each sample, or None."
        )
    return times
