"""pytest-xdist runs the suite only if every process collects the same tests in the same order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _collected(hash_seed: int) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "tests"]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout
    return [line for line in printed.splitlines() if "::" in line]


@pytest.mark.slow
def test_the_names_of_tests_do_not_depend_on_the_hash_seed():
    first = _collected(1)
    assert len(first) > 1000
    assert _collected(2) == first
