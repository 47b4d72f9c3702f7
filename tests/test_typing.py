"""Type checkers read this package's annotations, and find the public API in them."""

import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_twinflow

ROOT = Path(__file__).parents[1]
WRONG = """
from diffusers_twinflow import Nonsense, TwinFlowConfig, TwinFlowScheduler
from diffusers_twinflow.methods import TwinFlow

TwinFlowScheduler(sampling_style="fewer")
TwinFlowScheduler(sampling_styles="few")
TwinFlow(TwinFlowConfig(), teacher="best")
"""


def mypy(*arguments: str) -> subprocess.CompletedProcess:
    """mypy with the settings of this repository, and with the cache that `make lint` leaves."""
    return subprocess.run([sys.executable, "-m", "mypy", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_package_says_that_it_has_types():
    assert Path(diffusers_twinflow.__file__).with_name("py.typed").is_file()
    assert 'diffusers_twinflow = ["py.typed"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_a_user_writes_has_the_right_types():
    done = mypy(str(ROOT / "tests" / "public_api.py"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mistakes_of_a_user_are_found(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    done = mypy(str(tmp_path / "wrong.py"))
    found = [line.split("error: ")[1] for line in done.stdout.splitlines() if "error: " in line]
    assert len(found) == 4, done.stdout + done.stderr
    for name, message in zip(("Nonsense", "sampling_style", "sampling_styles", "teacher"), found, strict=True):
        assert f'"{name}"' in message
