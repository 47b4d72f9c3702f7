"""A fixture for tests that build an accelerator in the process of the tests."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def new_accelerator_state():
    """Forget accelerate's global state after each test."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
