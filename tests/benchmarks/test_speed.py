import argparse
import json
import math
import sys

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

import call_overhead
import merged_lora
import real_size
import speed
from at_real_size import where_a_call_goes
from at_real_size.building import random_pipeline, random_transformer
from at_real_size.diffusers_example import ExampleTraining
from at_real_size.latency import Latency
from at_real_size.measuring import Report
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


WAYS = [("stock", 4), ("TwinFlow", 4), ("TwinFlow", 2), ("TwinFlow", 1)]


@pytest.mark.slow
def test_latency_has_a_row_for_each_way_in_each_setting(tmp_path):
    result = run(speed, tmp_path, "--parts=sd3", "--runs=1", "--batches", "1", "2")
    rows = [row for row in result["rows"] if row["part"] == "latency"]
    found = [(row["compiled"], row["graphs"], row["batch"], row["way"], row["steps"]) for row in rows]
    apart = (False, False, 1, "TwinFlow, LoRA of rank 2 not merged", 2)
    as_they_are = [(False, False, batch, *way) for batch in (1, 2) for way in WAYS]
    graphs = [(False, True, 1, *way) for way in WAYS]
    compiled = [(True, False, batch, *way) for batch in (1, 2) for way in WAYS]
    assert found == [*as_they_are, apart, *graphs, *compiled]
    assert all(row["graphs_in_timed_calls"] == 0 for row in rows if "first_call_seconds" in row)
    assert len(result["speedups"]) == 3 * 5 + 1
    assert result["tiny_rehearsal"] and result["device"] == "CPU"


@pytest.mark.slow
def test_where_a_call_goes_is_told_of_calls_as_they_are_and_compiled(tmp_path):
    result = run(speed, tmp_path, "--parts=flux", "--runs=1")
    rows = [row for row in result["rows"] if row["part"] == "where_a_call_goes"]
    assert [(row["compiled"], row["steps"]) for row in rows] == [(False, 2), (False, 1), (True, 2), (True, 1)]
    for row in rows:
        assert 0 < row["device_busy_seconds"] <= row["device_span_seconds"]
        assert any("pipeline_flux.py" in line for line in row["host_by_cumulative"])
        assert not any("/" in line.split("(")[0].split()[-1] for line in row["host_by_own_time"][4:])


def test_a_look_that_fails_is_noted_and_the_others_are_kept(monkeypatch):
    def fails(call, device):
        raise RuntimeError("no profiler")

    monkeypatch.setattr(where_a_call_goes, "device_busy", fails)
    report = Report(argparse.Namespace(device="cpu", tiny=True), None, minutes=1)
    fails.__name__ = "device_busy"
    found = where_a_call_goes.where_a_call_goes(lambda: None, torch.device("cpu"), report, "a call")
    assert "device_busy_seconds" not in found and "host_by_cumulative" in found
    assert [failure["name"] for failure in report.result["failures"]] == ["a call: device_busy"]


def test_the_two_pipelines_share_their_weights_and_are_as_they_were_after_compiling():
    model, device = SD35_MEDIUM.tiny(), torch.device("cpu")
    stock = random_pipeline(model, device, torch.float32)
    latency = Latency(None, "tiny", model, stock, 64, backend="eager")
    twinflow = latency.pipelines["TwinFlow"].transformer
    for name, parameter in stock.transformer.named_parameters():
        assert twinflow.get_parameter(name) is parameter
    assert type(stock.transformer) is SD3Transformer2DModel and twinflow.twinflow_enabled
    with latency.compiled_blocks():
        compiled = [module for module in twinflow.modules() if module._compiled_call_impl]
        assert len(compiled) == model.transformer["num_layers"]
    with latency.replayed_graphs():
        assert [module for module in twinflow.modules() if module._compiled_call_impl] == [twinflow]
    assert not any(module._compiled_call_impl for module in twinflow.modules())


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
    assert 0 < rows[1]["target_times_ms"] + rows[1]["conditioning_ms"] < rows[1]["transformer_ms"]
    assert 2 * rows[1]["finding_the_device_ms"] < rows[0]["finding_the_device_ms"]


def test_a_merged_lora_is_measured_against_the_stock_pipeline(tmp_path):
    """The merged LoRA draws what the separate one draws, and the base comes back exactly."""
    result = run(merged_lora, tmp_path, "--runs=1", "--parts", "eager", "unloading")
    rows = result["rows"]
    ways = {row["way"]: row["times_stock"] for row in rows if row["part"] == "latency"}
    assert list(ways) == ["stock", "TwinFlow, LoRA merged", "TwinFlow, LoRA separate"] and ways["stock"] == 1
    (images,) = (row for row in rows if row["part"] == "images")
    assert images["root_mean_square_difference"] < 0.02 * images["root_mean_square"]
    assert [row["exact"] for row in rows if row["part"] == "unloading"] == [True]
