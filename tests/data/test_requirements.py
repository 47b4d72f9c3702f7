import importlib
import importlib.util
import subprocess
import sys

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


def test_without_the_extra_the_command_says_what_to_install():
    code = (
        "import sys\nsys.modules['datasets'] = None\nfrom diffusers_twinflow.cli import main\n"
        "main(['train', '--pretrained_model_name_or_path', 'x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: Training needs packages"), done.stderr
    assert done.stderr.count("\n") == 1 and "(datasets): pip install" in done.stderr
