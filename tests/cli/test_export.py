"""The command `export`."""

import json
from typing import get_args

import pytest
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file

from diffusers_twinflow.cli import export, main
from diffusers_twinflow.pipelines import exporting
from diffusers_twinflow.schedulers.scheduler_config import SAMPLING_STYLES


def test_choices_are_those_of_the_function():
    assert export.FORMATS == exporting.FORMATS == get_args(exporting.Format) == tuple(exporting.WRITERS)
    assert export.STYLES == SAMPLING_STYLES


def test_a_plain_lora(adapter, tmp_path, capsys):
    out = tmp_path / "plain"
    assert main(["export", str(adapter), str(out), "--step_counts", "2", "1", "--dtype", "bfloat16"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{out}/README.md",
        f"{out}/pytorch_lora_weights.safetensors",
        "scheduler: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)",
        "call: sigmas=[0.999], num_inference_steps=1, guidance_scale=0.0, max_sequence_length=2",
        "call: sigmas=[0.999, 0.6], num_inference_steps=2, guidance_scale=0.0, max_sequence_length=2",
    ]
    assert captured.err == f"Loading {adapter} and its base ...\n"
    assert {str(t.dtype) for t in load_file(out / "pytorch_lora_weights.safetensors").values()} == {"torch.bfloat16"}


def test_workflows_for_comfyui(adapter, tmp_path, capsys):
    out = tmp_path / "comfy"
    arguments = ["--format", "comfyui", "--sampling_style", "any", "--step_counts", "2", "--prompt", "a cat"]
    assert main(["export", str(adapter), str(out), *arguments]) == 0
    names = ["README.md", "comfy.safetensors", "workflow_2_steps.json"]
    assert capsys.readouterr().out.splitlines() == [f"{out}/{name}" for name in names]
    workflow = json.loads((out / "workflow_2_steps.json").read_text())
    inputs = {node["class_type"]: node["inputs"] for node in workflow.values()}
    assert inputs["ManualSigmas"]["sigmas"] == "0.999, 0.5, 0" and inputs["CLIPTextEncode"]["text"] == "a cat"
    assert inputs["KSamplerSelect"]["sampler_name"] == "euler"


def test_a_transformer(adapter, tmp_path):
    assert main(["export", str(adapter), str(tmp_path / "model"), "--format", "transformer"]) == 0
    assert type(SD3Transformer2DModel.from_pretrained(tmp_path / "model")) is SD3Transformer2DModel


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step_counts", "0"], "error: --step_counts=[0] is not valid. Use whole numbers from 1 to 1000"),
        (
            ["--sampling_style", "any", "--step_counts", "1", "2"],
            "error: --step_counts=[1, 2] do not fit into one file",
        ),
        (["--base_model", "no/such/base"], "error: 'no/such/base' is neither a directory nor a Hub id"),
    ],
)
def test_what_the_user_can_mend_is_one_line(adapter, tmp_path, capsys, arguments, message):
    assert main(["export", str(adapter), str(tmp_path / "out"), *arguments]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_names_the_others(adapter, tmp_path, capsys):
    assert main(["export", str(adapter), str(tmp_path / "out"), "--format", "gguf"]) == 1
    assert "diffusers" in capsys.readouterr().err
