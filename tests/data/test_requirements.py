import importlib
import importlib.util

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import requirements


def test_the_extra_is_named_if_one_of_its_packages_is_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torchdata" else find(name, *a))
    for kind in (ModuleNotFoundError, TwinFlowConfigError):  # the second is one line on the command line
        with pytest.raises(kind, match=r'torchdata.*pip install "diffusers-twinflow\[train\]"'):
            importlib.reload(requirements)
    monkeypatch.undo()
    importlib.reload(requirements)
