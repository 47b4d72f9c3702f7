"""Importing the package costs and prints nothing; its names are there all the same."""

import json
import subprocess
import sys

import pytest

import diffusers_twinflow


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_is_silent_and_changes_no_logging():
    code = """
import json, logging, sys, warnings
before = (logging.root.level, list(logging.root.handlers), list(warnings.filters), set(logging.root.manager.loggerDict))
import diffusers_twinflow
after = (logging.root.level, list(logging.root.handlers), list(warnings.filters), set(logging.root.manager.loggerDict))
print(json.dumps([before == after, sorted({"torch", "diffusers", "transformers", "peft"} & sys.modules.keys())]))
"""
    done = run(code)
    assert json.loads(done.stdout) == [True, []] and done.stderr == ""


def test_every_public_name_is_there():
    for name in diffusers_twinflow.__all__:
        value = getattr(diffusers_twinflow, name)
        assert getattr(value, "__name__", name) == name
    assert set(diffusers_twinflow.__all__) == set(diffusers_twinflow.MODULES) <= set(dir(diffusers_twinflow))
    assert diffusers_twinflow.hub.load_twinflow_lora is diffusers_twinflow.load_twinflow_lora
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        diffusers_twinflow.nope  # noqa: B018
