"""Forget accelerate's global state after work that builds an accelerator in the process of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from accelerate.state import AcceleratorState


@contextmanager
def fresh_accelerator() -> Iterator[None]:
    """Forget accelerate's global state after the block."""
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def new_accelerator_state():
    """Forget accelerate's global state after each test."""
    with fresh_accelerator():
        yield
