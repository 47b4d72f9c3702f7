"""Wan 2.2: a transformer for high noise and one for low noise are trained, saved, loaded and sampled together."""

import copy
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.wan import pipeline_wan_vace
from safetensors.torch import load_file

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline, export, load_twinflow_lora
from diffusers_twinflow.cli.description import describe
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, unload_twinflow_lora
from diffusers_twinflow.hub.files import LOADED_NAMES
from diffusers_twinflow.hub.pushable import check_pushable
from diffusers_twinflow.methods import FlowMatching, TwinFlow
from diffusers_twinflow.models.denoisers_by_time import DenoisersByTime
from diffusers_twinflow.models.known_times import known_times
from diffusers_twinflow.pipelines.bare_base import bare_base
from diffusers_twinflow.training import TrainingArguments
from diffusers_twinflow.training.checks import check_denoisers, check_family
from diffusers_twinflow.training.conversion import convert_checkpoint
from tests.families import tiny_captured
from tests.families.two_denoisers import BOUNDARY, CALL, FAMILY, NAMES, build, run_options, train
from tests.host_reads import no_host_reads, waiting_is_an_error


@pytest.fixture(scope="module")
def pipeline():
    return build()


@pytest.fixture(scope="module")
def base(pipeline, tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    pipeline.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "prompts.txt"
    path.write_text("a\na picture\nb\n")
    return path


@pytest.fixture(scope="module")
def lora(base, prompts_file, tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora")
    trainer = train(base, directory, **run_options(prompts_file))
    assert not trainer.problems
    return directory


def times_of(pipeline, call=CALL, **options) -> dict[str, list[float]]:
    """The times at which a call runs each denoiser, from 0 to 1000."""
    seen: dict[str, list[float]] = {name: [] for name in NAMES}
    hooks = [
        getattr(pipeline, name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: seen[name].append(kwargs["timestep"].flatten()[0].item()),
            with_kwargs=True,
        )
        for name in NAMES
    ]
    pipeline(**call, **options)
    for hook in hooks:
        hook.remove()
    return seen


def draw(pipeline, **call) -> torch.Tensor:
    torch.manual_seed(0)
    return pipeline(**CALL, generator=torch.Generator().manual_seed(0), **call).frames


@torch.no_grad()
def test_each_sample_gets_the_velocity_of_the_denoiser_of_its_time(pipeline):
    network = FAMILY.network(pipeline)
    x, t = torch.randn(3, 16, 1, 2, 2), torch.tensor([0.3, BOUNDARY, 0.8])
    condition = FAMILY.encode_prompts(pipeline, ["a", "b", "c"], 8)
    velocities = [FAMILY.velocity(each)(x, t, None, None, condition) for each in FAMILY.denoisers(pipeline).values()]
    ours = FAMILY.network_velocity(network)(x, t, None, None, condition)
    expected = torch.stack([velocities[1][0], velocities[0][1], velocities[1][2]])
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(velocities[0], velocities[1], atol=1e-2)
    network.runs_both = True
    torch.testing.assert_close(FAMILY.network_velocity(network)(x, t, None, None, condition), expected)


@torch.no_grad()
def test_a_denoiser_that_no_sample_needs_does_not_run(pipeline):
    network, calls = FAMILY.network(pipeline), []
    hook = pipeline.transformer_2.register_forward_hook(lambda *_: calls.append(1))
    condition = FAMILY.encode_prompts(pipeline, ["a", "b"], 8)
    FAMILY.network_velocity(network)(torch.randn(2, 16, 1, 2, 2), torch.ones(2), None, None, condition)
    hook.remove()
    assert not calls


@pytest.mark.parametrize("method", ["TwinFlow", "flow matching"])
def test_a_step_reads_no_times_from_the_device(base, image_dir, tmp_path, method):
    """Its loss is that of a draw whose times only the device has."""
    methods = {
        "TwinFlow": TwinFlow(TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True)),
        "flow matching": FlowMatching(),
    }
    options = {"instance_data_dir": str(image_dir), "max_train_steps": 1, "merged_lora_gigabytes": 0.0}
    trainer = train(base, tmp_path, methods[method], **options)
    device = next(trainer.transformer.parameters()).device
    latents = torch.randn(32, 16, 1, 2, 2, device=device)
    prompts = FAMILY.encode_prompts(trainer.pipeline, ["a"] * 32, 8)
    condition = {name: tensor.to(device) for name, tensor in prompts.items()}
    draw = trainer.method.draw(range(32), latents.shape[1:], seed=0, device=latents.device)
    assert 0 < (draw.t >= BOUNDARY).sum() < 32
    with no_host_reads(), waiting_is_an_error():
        known = trainer.method.loss(latents, condition, draw, trainer.networks)
    draw = replace(draw, **{"plan" if method == "TwinFlow" else "t_on_host": None})
    with no_host_reads(), pytest.raises(AssertionError, match="cpu"):
        trainer.method.loss(latents, condition, draw, trainer.networks)
    unknown = trainer.method.loss(latents, condition, draw, trainer.networks)
    assert torch.equal(known.per_sample, unknown.per_sample)


def test_times_of_another_batch_are_refused(pipeline):
    network, condition = FAMILY.network(pipeline), FAMILY.encode_prompts(pipeline, ["a", "b"], 8)
    with known_times(np.ones(3, dtype=np.float32)), pytest.raises(ValueError, match="3 times, but the pass has 2"):
        FAMILY.network_velocity(network)(torch.randn(2, 16, 1, 2, 2), torch.ones(2), None, None, condition)


def test_both_denoisers_get_gradients_if_only_one_has_samples(pipeline):
    network = copy.deepcopy(FAMILY.network(pipeline)).requires_grad_(True)
    network.runs_both = True
    condition = FAMILY.encode_prompts(pipeline, ["a"], 8)
    FAMILY.network_velocity(network)(
        torch.randn(1, 16, 1, 2, 2), torch.ones(1), None, None, condition
    ).sum().backward()
    high, low = ([p.grad for p in getattr(network, name).parameters()] for name in NAMES)
    assert all(grad is not None and not grad.any() for grad in low) and any(grad.any() for grad in high)


@torch.no_grad()
def test_the_walk_from_one_part_of_time_into_the_other_equals_the_stock_call(pipeline):
    """Euler steps through the network end where the stock pipeline ends."""
    noise = torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    stock = pipeline(**CALL, latents=noise, num_inference_steps=10, guidance_scale=1.0).frames
    condition, x = FAMILY.encode_prompts(pipeline, ["a"], 8), noise
    velocity, sigmas = FAMILY.network_velocity(FAMILY.network(pipeline)), pipeline.scheduler.sigmas
    assert sigmas[0] > BOUNDARY > sigmas[-2]
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
        x = x + (sigma_next - sigma) * velocity(x, sigma.expand(1), None, None, condition)
    torch.testing.assert_close(x, stock, rtol=1e-4, atol=1e-4)


def test_a_lora_is_trained_with_prompts_and_drawn_with_both_denoisers(base, lora):
    assert {path.name for path in lora.glob("*.safetensors")} == {
        "pytorch_lora_weights.safetensors",
        "pytorch_lora_weights_2.safetensors",
        "twinflow_time_conditioning.safetensors",
        "twinflow_time_conditioning_2.safetensors",
    }
    config = TwinFlowRepositoryConfig.load(lora)
    assert config.denoisers == NAMES
    pipeline = TwinFlowPipeline.from_pretrained(lora)
    pipeline.set_progress_bar_config(disable=True)
    for count in (1, 2, 4):
        times = times_of(pipeline, num_inference_steps=count)
        assert len(times["transformer"]) + len(times["transformer_2"]) == count
        assert all(time >= 1000 * BOUNDARY for time in times["transformer"])
        assert all(time < 1000 * BOUNDARY for time in times["transformer_2"])
        assert bool(times["transformer_2"]) == (count > 1)
    separate = TwinFlowPipeline.from_pretrained(lora, merge=False)
    separate.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(separate), draw(pipeline), rtol=1e-4, atol=1e-4)
    for name in NAMES:
        moved = [p for key, p in getattr(separate, name).named_parameters() if ".lora_B." in key]
        assert moved and any(p.any() for p in moved)


def test_a_resumed_run_equals_one_without_a_break(base, lora, prompts_file, tmp_path):
    train(base, tmp_path, max_train_steps=1, **run_options(prompts_file))
    train(base, tmp_path, resume="latest", **run_options(prompts_file))
    assert_same_files(tmp_path, lora)


def test_a_checkpoint_is_converted_to_the_result(lora, tmp_path):
    convert_checkpoint(lora / "checkpoint-2", tmp_path / "result")
    assert_same_files(tmp_path / "result", lora)


def assert_same_files(directory: Path, expected: Path) -> None:
    for path in expected.glob("*.safetensors"):
        wanted, found = load_file(path), load_file(directory / path.name)
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items()), path


def test_the_base_and_a_whole_model_come_from_both_denoisers(base, lora, tmp_path):
    ours, stock = TwinFlowPipeline.from_pretrained(lora), DiffusionPipeline.from_pretrained(base)
    for pipeline in (ours, stock):
        pipeline.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 4, "guidance_scale": 0.0}
    drawn = draw(ours, **call)
    with bare_base(ours) as bare:
        assert torch.equal(draw(bare, **call), draw(stock, **call))
    assert torch.equal(draw(ours, **call), drawn)
    ours.save_pretrained(tmp_path)
    torch.testing.assert_close(draw(TwinFlowPipeline.from_pretrained(tmp_path), **call), drawn, rtol=1e-4, atol=1e-4)
    described = [describe(str(each)) for each in (tmp_path, lora)]
    assert all(each["denoisers"] == NAMES for each in described)
    assert described[0]["time_conditioning_parameters"] == described[1]["time_conditioning_parameters"]


def test_stock_diffusers_loads_both_files_as_the_model_card_says(base, lora):
    stock, ours = (DiffusionPipeline.from_pretrained(base) for _ in range(2))
    load_twinflow_lora(ours, lora)
    card = (lora / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "load_into" in block)
    exec(code.replace(f'"{lora.name}"', repr(str(lora))), {"pipe": stock})
    assert type(stock).__name__ == "WanPipeline" and type(stock.transformer_2).__name__ == "WanTransformer3DModel"
    for pipeline in (stock, ours):
        pipeline.set_progress_bar_config(disable=True)
    for count in (1, 2, 4):
        call = {"num_inference_steps": count, "guidance_scale": 0.0}
        torch.testing.assert_close(draw(stock, **call), draw(ours, **call), rtol=1e-4, atol=1e-4)


def test_all_files_are_pushed_and_downloaded(lora, tmp_path):
    _, files = check_pushable(lora, base_model="me/base")
    weights = {path.name for path in lora.glob("*.safetensors")}
    assert weights <= {*files} and weights <= {*LOADED_NAMES}
    shutil.copytree(lora, tmp_path / "lora")
    (tmp_path / "lora" / "pytorch_lora_weights_2.safetensors").unlink()
    with pytest.raises(TwinFlowConfigError, match="lacks pytorch_lora_weights_2.safetensors"):
        check_pushable(tmp_path / "lora", base_model="me/base")
    with pytest.raises(TwinFlowConfigError, match="has no pytorch_lora_weights_2.safetensors"):
        TwinFlowPipeline.from_pretrained(tmp_path / "lora")


def test_a_lora_is_exported_for_stock_diffusers_and_comfyui(base, lora, tmp_path):
    names = ["plain.safetensors", "plain_2.safetensors"]
    ours = TwinFlowPipeline.from_pretrained(lora, merge=False)
    drawn = draw(ours, num_inference_steps=4)
    for format in ("diffusers", "merged"):
        export(lora, tmp_path / format, format)
        code = re.search(r"```python\n(.*?)```", (tmp_path / format / "README.md").read_text(), re.DOTALL).group(1)
        lines = code.replace('"path/to/the/base"', repr(str(base))).replace(
            f'"{format}"', repr(str(tmp_path / format))
        )
        lines = lines.replace('.to("cuda")', "").replace("bfloat16", "float32")
        values = {}
        exec("\n".join(line for line in lines.splitlines() if not line.startswith("video =")), values)
        stock = values["pipe"]
        assert type(stock.transformer_2).__name__ == "WanTransformer3DModel"
        stock.set_progress_bar_config(disable=True)
        torch.testing.assert_close(draw(stock, num_inference_steps=4, guidance_scale=0.0), drawn, rtol=1e-4, atol=1e-4)
    export(lora, tmp_path / "plain", "comfyui")
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["README.md", *names]
    page = (tmp_path / "plain" / "README.md").read_text()
    assert all(name in page for name in names) and "sigmas of 0.875 and more" in page
    with pytest.raises(TwinFlowConfigError, match="format='transformer' writes one file"):
        export(lora, tmp_path / "one", "transformer")


@pytest.mark.parametrize("merge", [False, True])
def test_unloading_restores_both_denoisers(base, lora, merge):
    pipeline = DiffusionPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "guidance_scale": 0.0}
    before = draw(pipeline, **call)
    load_twinflow_lora(pipeline, lora, merge=merge)
    assert set(pipeline.get_list_adapters()) == set(NAMES)
    assert not torch.allclose(draw(pipeline, **call), before, atol=1e-3)
    unload_twinflow_lora(pipeline)
    assert torch.equal(draw(pipeline, **call), before)
    assert all(type(getattr(pipeline, name)).__name__ == "WanTransformer3DModel" for name in NAMES)


def test_all_weights_are_trained_on_images_saved_and_loaded(base, image_dir, tmp_path):
    method = TwinFlow(TwinFlowConfig(twinflow_enabled=True, twinflow_target_step_count=2))
    train(base, tmp_path, method, instance_data_dir=str(image_dir), train_type="full", save_ema=True)
    ours, stock = TwinFlowPipeline.from_pretrained(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)
    stock.scheduler = ours.scheduler.from_config(ours.scheduler.config)
    was = DiffusionPipeline.from_pretrained(base)
    for pipeline in (ours, stock):
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline.config.boundary_ratio == BOUNDARY
    for name in NAMES:
        mine, before = (getattr(each, name).state_dict() for each in (stock, was))
        assert any(not torch.equal(mine[key], before[key]) for key in before)
    torch.testing.assert_close(
        draw(stock, num_inference_steps=2, guidance_scale=0.0), draw(ours), rtol=1e-4, atol=1e-4
    )


def test_a_lora_of_both_needs_both(base, lora):
    alone = DiffusionPipeline.from_pretrained(base, transformer_2=None, boundary_ratio=None)
    with pytest.raises(
        TwinFlowConfigError, match="trained on transformer and transformer_2.*denoises with transformer"
    ):
        load_twinflow_lora(alone, lora)


def test_a_pipeline_that_lacks_its_second_denoiser_is_refused(pipeline):
    lacking = type(pipeline)(**{**pipeline.components, "transformer_2": None}, boundary_ratio=BOUNDARY)
    with pytest.raises(TwinFlowConfigError, match="boundary_ratio=0.875.*has none"):
        FAMILY.denoisers(lacking)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoisers": ["transformer_2"]}, "denoisers=transformer_2 is not valid"),
        ({"cuda_graphs": True}, "`cuda_graphs` cannot be used with transformer and transformer_2"),
    ],
)
def test_options_that_do_not_fit_two_denoisers_are_refused(pipeline, options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        check_family(TrainingArguments(**options), FAMILY)
        check_denoisers(TrainingArguments(**options), FAMILY.denoisers(pipeline))


def test_flow_matching_trains_both(base, image_dir, tmp_path):
    trainer = train(base, tmp_path, FlowMatching(), instance_data_dir=str(image_dir), max_train_steps=1)
    assert isinstance(trainer.transformer, DenoisersByTime)
    stock = DiffusionPipeline.from_pretrained(base)
    stock.load_lora_weights(str(tmp_path), adapter_name="high")
    stock.load_lora_weights(
        str(tmp_path),
        weight_name="pytorch_lora_weights_2.safetensors",
        adapter_name="low",
        load_into_transformer_2=True,
    )


@pytest.mark.slow
def test_wan_vace_trains_both(prompts_file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        pipeline_wan_vace, "ftfy", SimpleNamespace(fix_text=str), raising=False
    )  # plain text needs none
    tiny_captured.wan_vace_with_two().save_pretrained(tmp_path / "base")
    trainer = train(tmp_path / "base", tmp_path / "out", num_frames=9, **run_options(prompts_file))
    assert not trainer.problems
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    pipeline.set_progress_bar_config(disable=True)
    for name in NAMES:
        moved = [p for key, p in getattr(pipeline, name).named_parameters() if ".lora_B." in key]
        assert moved and any(p.any() for p in moved)
    call = CALL | {"num_frames": 9}
    times = times_of(pipeline, call, num_inference_steps=4)
    assert len(times["transformer"]) + len(times["transformer_2"]) == 4 and all(times.values())


def test_a_pipeline_that_needs_a_library_says_which(prompts_file, tmp_path, monkeypatch):
    monkeypatch.delattr(pipeline_wan_vace, "ftfy", raising=False)
    tiny_captured.wan_vace_with_two().save_pretrained(tmp_path / "base")
    with pytest.raises(TwinFlowConfigError, match="needs `ftfy`, which is not installed"):
        train(tmp_path / "base", tmp_path / "out", num_frames=9, **run_options(prompts_file))
