"""A TwinFlow LoRA beside other LoRAs: weights, fusing, and the way back to the stock pipeline."""

import shutil

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig
from repositories import FAMILY

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora, unload_twinflow_lora


@pytest.fixture(autouse=True)
def logs_stay_in_the_test():
    yield
    diffusers_logging.disable_propagation()


def draw(pipeline, **options):
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "guidance_scale": 0.0, "max_sequence_length": 2} | options
    return pipeline("a picture", generator=generator, output_type="pt", **options).images


def state(pipeline):
    return {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}


def add_style(pipeline):
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["attn.to_q", "attn.to_v"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config, adapter_name="style")


def test_loaded_lora_draws_as_the_twinflow_pipeline_does(shared_repository, pipeline, base_dir):
    load_twinflow_lora(pipeline, shared_repository)
    whole = TwinFlowPipeline.from_pretrained(shared_repository)
    whole.set_progress_bar_config(disable=True)
    assert torch.equal(draw(pipeline), draw(whole))


def test_unload_brings_the_stock_pipeline_back_exactly(shared_repository, pipeline):
    scheduler, before, picture, config = (
        pipeline.scheduler,
        state(pipeline),
        draw(pipeline),
        pipeline.transformer.config,
    )
    load_twinflow_lora(pipeline, shared_repository)
    assert not torch.equal(draw(pipeline), picture)
    unload_twinflow_lora(pipeline)
    after = state(pipeline)
    assert pipeline.scheduler is scheduler and type(pipeline.transformer) is SD3Transformer2DModel
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert dict(pipeline.transformer.config) == dict(config)
    assert torch.equal(draw(pipeline), picture)
    load_twinflow_lora(pipeline, shared_repository)


def test_unload_turns_a_twinflow_pipeline_into_the_stock_one(shared_repository):
    pipeline = TwinFlowPipeline.from_pretrained(shared_repository)
    unload_twinflow_lora(pipeline)
    assert type(pipeline) is StableDiffusion3Pipeline
    assert type(pipeline.scheduler) is FlowMatchEulerDiscreteScheduler


def test_unload_needs_a_loaded_lora(pipeline):
    with pytest.raises(TwinFlowConfigError, match="no TwinFlow LoRA"):
        unload_twinflow_lora(pipeline)


@pytest.mark.parametrize("order", ["style first", "style last"])
def test_beside_a_style_lora_and_back_to_it(shared_repository, pipeline, order):
    add_style(pipeline)
    pipeline.set_adapters("style", 0.5)
    styled = draw(pipeline)
    if order == "style last":
        pipeline.delete_adapters("style")
        load_twinflow_lora(pipeline, shared_repository)
        add_style(pipeline)
        pipeline.set_adapters(["twinflow", "style"], [1.0, 0.5])
    else:
        load_twinflow_lora(pipeline, shared_repository)
    assert set(pipeline.get_active_adapters()) == {"twinflow", "style"}
    both = draw(pipeline)
    pipeline.set_adapters(["twinflow", "style"], [1.0, 0.5])
    torch.testing.assert_close(draw(pipeline), both)
    pipeline.set_adapters(["twinflow", "style"], [1.0, 0.0])
    assert not torch.equal(draw(pipeline), both)
    pipeline.set_adapters(["twinflow", "style"], [1.0, 0.5])
    unload_twinflow_lora(pipeline)
    assert pipeline.get_active_adapters() == ["style"]
    assert torch.equal(draw(pipeline), styled)


def assert_same(before, after):
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_weights_draw_the_same_and_unload_exactly(shared_repository, base_dir, dtype, caplog):
    pipeline = FAMILY.load(base_dir, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    before = state(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    picture = draw(pipeline)
    pipeline.fuse_lora(adapter_names=["twinflow"])
    if dtype == torch.float32:
        torch.testing.assert_close(draw(pipeline), picture, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        name, layer = next((n, m) for n, m in pipeline.transformer.named_modules() if n.endswith("attn.to_q"))
        assert not torch.equal(layer.base_layer.weight, before[f"{name}.weight"])
    unload_twinflow_lora(pipeline)
    assert_same(before, state(pipeline))
    assert "up to rounding" not in caplog.text


def test_unfusing_alone_is_not_exact(shared_repository, pipeline):
    before = state(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    pipeline.fuse_lora(adapter_names=["twinflow"])
    pipeline.unfuse_lora()
    unload_twinflow_lora(pipeline)
    after = state(pipeline)
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_a_base_that_is_not_its_files_any_more_comes_back_up_to_rounding(shared_repository, pipeline, caplog):
    with torch.no_grad():
        pipeline.transformer.transformer_blocks[0].attn.to_q.weight.add_(0.5)
    before = state(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    pipeline.fuse_lora(adapter_names=["twinflow"])
    diffusers_logging.enable_propagation()
    unload_twinflow_lora(pipeline)
    after = state(pipeline)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["transformer_blocks.0.attn.to_q.weight"]
    assert "'transformer_blocks.0.attn.to_q' and 0 other layers" in caplog.text


def test_a_base_without_files_comes_back_up_to_rounding(shared_repository, tmp_path, base_dir):
    pipeline = FAMILY.load(shutil.copytree(base_dir, tmp_path / "base"))
    before = state(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    pipeline.fuse_lora(adapter_names=["twinflow"])
    shutil.rmtree(tmp_path / "base" / "transformer")
    unload_twinflow_lora(pipeline)
    torch.testing.assert_close(state(pipeline), before, atol=1e-5, rtol=1e-4)


def test_loading_says_nothing_of_text_encoders(shared_repository, pipeline, caplog):
    diffusers_logging.enable_propagation()
    load_twinflow_lora(pipeline, shared_repository)
    unload_twinflow_lora(pipeline)
    assert caplog.text == ""


def test_a_second_twinflow_lora_is_refused(shared_repository, pipeline):
    load_twinflow_lora(pipeline, shared_repository)
    with pytest.raises(TwinFlowConfigError, match="unload_twinflow_lora"):
        load_twinflow_lora(pipeline, shared_repository, adapter_name="again")


def test_an_adapter_name_in_use_is_refused(shared_repository, pipeline):
    add_style(pipeline)
    with pytest.raises(TwinFlowConfigError, match="adapter_name='style'"):
        load_twinflow_lora(pipeline, shared_repository, adapter_name="style")


def test_a_failure_while_loading_leaves_the_pipeline_as_it_was(shared_repository, pipeline, monkeypatch):
    add_style(pipeline)
    pipeline.set_adapters("style", 0.5)
    before, scheduler, picture = state(pipeline), pipeline.scheduler, draw(pipeline)

    def run_out(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("diffusers_twinflow.hub.loading.link_target_timesteps", run_out)
    with pytest.raises(RuntimeError, match="out of memory"):
        load_twinflow_lora(pipeline, shared_repository)
    after = state(pipeline)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert pipeline.scheduler is scheduler and torch.equal(draw(pipeline), picture)
