import json
import math
import sys

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import call_overhead
import real_size
import speed
from at_real_size.building import random_transformer
from at_real_size.diffusers_example import ExampleTraining
from at_real_size.models import SD35_MEDIUM
from at_real_size.reference import load_method_class

METHOD = """
import torch
from diffusers import StableDiffusion3Pipeline


class TwinFlow:
    def __init__(self, **options):
        assert options["estimate_order"] == 2

    def training_step(self, model, x, c, e, step, v):
        state = torch.cuda.get_rng_state()
        module = model.transformer.module
        t = torch.full((len(x), 1, 1, 1), 0.5)
        with torch.no_grad():
            module.set_adapter("old")
            target = model(x, t=t.flatten(), c=e)
            module.set_adapter("default")
        torch.cuda.set_rng_state(state)
        return (model(x, t=t.flatten(), c=c) - target).square().mean()
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder in the layout of the authors' repository, with a step of our own in it."""
    package = tmp_path / "checkout" / "src" / "methodes"
    (package / "twinflow").mkdir(parents=True)
    (package / "twinflow" / "__init__.py").touch()
    (package / "twinflow" / "twinflow_lora.py").write_text(METHOD)
    (package / "__init__.py").write_text(
        'from .twinflow.twinflow_lora import TwinFlow\n\nMETHODES = {"TwinFlow_LoRA": TwinFlow}\n'
    )
    yield tmp_path / "checkout"
    for name in [name for name in sys.modules if name.split(".")[0] == "methodes"]:
        del sys.modules[name]


def run(script, tmp_path, *arguments: str) -> dict:
    output = tmp_path / "result.json"
    options = ["--tiny", "--device=cpu", "--rank=2", f"--output={output}", *arguments]
    assert script.main(script.parse_args(options)) == 0
    return json.loads(output.read_text())


def test_the_examples_loss_is_zero_at_the_true_velocity_and_is_preconditioned():
    model = SD35_MEDIUM.tiny()
    latents = model.latents(4, 64, torch.device("cpu"))
    transformer = random_transformer(model, latents.device, torch.bfloat16)
    training = ExampleTraining(model, transformer, latents, rank=2, gradient_checkpointing=False)
    training.latents = latents
    seen = {}

    def true_velocity(hidden_states, timestep, **_):
        sigma = (timestep / 1000).view(-1, 1, 1, 1)
        seen["error"] = (sigma * 0.1) ** 2
        return ((hidden_states - latents) / sigma + seen.get("offset", 0.0),)

    training.transformer = true_velocity
    assert training.loss().item() == pytest.approx(0, abs=1e-9)
    seen["offset"] = 0.1
    assert training.loss().item() == pytest.approx(seen["error"].mean().item(), rel=1e-3)


def test_latency_has_a_row_for_each_call_and_its_speedups(tmp_path):
    result = run(speed, tmp_path, "--parts=flux", "--runs=1")
    calls = [(row["way"], row["steps"], row["what"]) for row in result["rows"]]
    ways = [
        ("stock", 4),
        ("TwinFlow", 4),
        ("TwinFlow", 2),
        ("TwinFlow", 1),
        ("TwinFlow, LoRA of rank 2 not merged", 2),
    ]
    assert calls == [(*way, what) for way in ways for what in ("denoising", "picture")]
    assert all(row["scheduler"]["calls"] == row["steps"] for row in result["rows"] if row["what"] == "denoising")
    assert [entry["steps"] for entry in result["speedups"]] == [4, 2, 1, 2]
    assert result["tiny_rehearsal"] and result["device"] == "CPU"


def test_the_ways_of_training_train_the_same_layers(tmp_path, checkout):
    rows = run(speed, tmp_path, "--parts=training_512", "--runs=1", f"--reference_dir={checkout}")["rows"]
    trained = {row["way"]: row["trained_parameters"] for row in rows}
    assert len(trained) == 6
    assert trained["diffusers' example"] == trained["ours, flow matching"] == trained["authors' TwinFlow"]
    conditioning = trained["ours, TwinFlow"] - trained["diffusers' example"]
    assert conditioning > 0
    assert all(row["samples_per_second"] == pytest.approx(4 / row["seconds"]) for row in rows)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--reference_dir=.*give a checkout"):
        load_method_class(tmp_path)


def test_a_step_at_real_size_trains_every_branch(tmp_path):
    rows = run(real_size, tmp_path, "--parts", "sd3_1024_batch_1", "qwen_512_int8", "--cycles=1")["rows"]
    assert [row["quantize_base"] for row in rows] == [None, "torchao_int8"]
    for row in rows:
        assert set(row["seconds_by_branches"]) == {"one_step", "any_step", "multi_step", "adversarial"}
        assert row["runs"] == 4
        assert math.isfinite(row["last_gradient_norm"]) and row["last_gradient_norm"] > 0


def test_the_parts_of_a_call_are_within_it_and_the_timers_are_gone(tmp_path):
    output = tmp_path / "result.json"
    call = StableDiffusion3Pipeline.__call__
    assert call_overhead.main(call_overhead.parse_args(["--runs=2", f"--output={output}"])) == 0
    assert StableDiffusion3Pipeline.__call__ is call
    rows = json.loads(output.read_text())["rows"]
    assert [row["way"] for row in rows] == ["stock", "TwinFlow"]
    for row in rows:
        assert 0 < row["scheduler_ms"] < row["transformer_ms"] < row["call_ms"]
        assert 0 < row["twinflow_pipeline_ms"] < row["outside_steps_ms"] < row["call_ms"]
