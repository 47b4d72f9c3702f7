import importlib
import importlib.util

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import requirements
from tests.forking import FORGET_THE_PACKAGE


def test_the_extra_is_named_if_one_of_its_packages_is_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torchdata" else find(name, *a))
    for kind in (ModuleNotFoundError, TwinFlowConfigError):  # the second is one line on the command line
        with pytest.raises(kind, match=r'torchdata.*pip install "diffusers-twinflow\[train\]"'):
            importlib.reload(requirements)
    monkeypatch.undo()
    importlib.reload(requirements)


def test_without_the_extra_the_command_says_what_to_install(start):
    code = f"""{FORGET_THE_PACKAGE}
sys.modules["datasets"] = None
from diffusers_twinflow.cli import main
main(["train", "--pretrained_model_name_or_path", "x"])
"""
    run = start([], code=code)
    (exit_code,), printed = run.wait(), run.outputs[0].read_text()
    assert exit_code == 1 and printed.startswith("error: Training needs packages"), printed
    assert printed.count("\n") == 1 and "(datasets): pip install" in printed
