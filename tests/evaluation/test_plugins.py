import sys

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.evaluation.plugins import load_function


def test_a_function_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "judge_of_this_test.py").write_text(
        "number = 3\ndef mean(images, prompts):\n    return images.mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    assert load_function("judge_of_this_test:mean", "judge")(torch.ones(1, 3, 2, 2), ["a"]) == 1
    for name, message in {
        "judge_of_this_test:number": "judge='judge_of_this_test:number' is a int: it must be a function",
        "judge_of_this_test": "module:function",
        ":mean": "module:function",
    }.items():
        with pytest.raises(TwinFlowConfigError, match=message):
            load_function(name, "judge")
