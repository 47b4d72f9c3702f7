import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def new_accelerator_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
