import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def new_accelerator_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
