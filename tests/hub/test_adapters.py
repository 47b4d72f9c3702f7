"""A TwinFlow LoRA next to other LoRAs: adapter weights, fusing, and unloading."""

import copy
import inspect
import shutil

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from diffusers_twinflow import (
    TwinFlowConfigError,
    TwinFlowPipeline,
    TwinFlowScheduler,
    load_twinflow_lora,
    unload_twinflow_lora,
)
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.models import TimeConditioning, uncompiled
from diffusers_twinflow.training.quantization import quantization_config
from tests.hub.repositories import FAMILY


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
    whole = TwinFlowPipeline.from_pretrained(shared_repository, merge=False)
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


def adapted(pipeline):
    return [module for module in pipeline.transformer.modules() if isinstance(module, BaseTunerLayer)]


@pytest.mark.parametrize("off", ["disabled", "not active"])
def test_a_style_lora_that_is_off_stays_off(shared_repository, pipeline, off):
    alone = TwinFlowPipeline.from_pretrained(shared_repository, merge=False)
    stock = draw(pipeline)
    add_style(pipeline)
    styled = draw(pipeline)
    if off == "disabled":
        pipeline.disable_lora()
    else:
        pipeline.transformer.set_adapters([])
    load_twinflow_lora(pipeline, shared_repository)
    assert pipeline.get_active_adapters() == ["twinflow"]
    assert not any(layer.disable_adapters for layer in adapted(pipeline))
    assert torch.equal(draw(pipeline), draw(alone))
    unload_twinflow_lora(pipeline)
    assert torch.equal(draw(pipeline), stock)
    if off == "disabled":
        pipeline.enable_lora()
        assert torch.equal(draw(pipeline), styled)


def test_block_weights_of_a_style_lora_stay(shared_repository, pipeline):
    add_style(pipeline)
    pipeline.transformer.set_adapters("style", [{"blocks.0.": 0.2, "blocks.1.": 0.9}])

    def scales():
        return [layer.scaling["style"] for layer in adapted(pipeline) if "style" in layer.scaling]

    before, styled = scales(), draw(pipeline)
    assert set(before) == {0.2, 0.9}
    load_twinflow_lora(pipeline, shared_repository)
    assert scales() == before and set(pipeline.get_active_adapters()) == {"twinflow", "style"}
    unload_twinflow_lora(pipeline)
    assert scales() == before and torch.equal(draw(pipeline), styled)


def test_all_loras_off_and_ours_unloaded_stay_off(shared_repository, pipeline):
    stock = draw(pipeline)
    add_style(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    pipeline.disable_lora()
    unload_twinflow_lora(pipeline)
    assert torch.equal(draw(pipeline), stock)


def unload_weights(pipeline):
    pipeline.unload_lora_weights()


def delete_ours(pipeline):
    pipeline.delete_adapters("twinflow")


def delete_all(pipeline):
    pipeline.delete_adapters(["style", "twinflow"])


@pytest.mark.parametrize("unload", [unload_weights, delete_ours, delete_all])
@pytest.mark.parametrize("whole", [False, True])
def test_the_usual_ways_of_unloading_do_the_whole_job(shared_repository, pipeline, unload, whole):
    scheduler, before, stock = pipeline.scheduler, state(pipeline), draw(pipeline)
    if whole:
        pipeline = TwinFlowPipeline.from_pretrained(shared_repository)
        pipeline.set_progress_bar_config(disable=True)
    else:
        load_twinflow_lora(pipeline, shared_repository)
    if unload is delete_all:
        add_style(pipeline)
    assert isinstance(pipeline.scheduler, TwinFlowScheduler)
    unload(pipeline)
    if unload is not unload_weights:
        unload_weights(pipeline)
    assert type(pipeline) is StableDiffusion3Pipeline and type(pipeline.transformer) is SD3Transformer2DModel
    assert whole or pipeline.scheduler is scheduler
    assert_same(before, state(pipeline))
    assert torch.equal(draw(pipeline), stock)


def test_a_fused_lora_stays_whole_when_its_adapter_is_unloaded(shared_repository, pipeline):
    load_twinflow_lora(pipeline, shared_repository)
    pipeline.fuse_lora(adapter_names=["twinflow"])
    image = draw(pipeline)
    pipeline.unload_lora_weights()
    assert not adapted(pipeline) and torch.equal(draw(pipeline), image)
    assert pipeline.transformer.twinflow_enabled and isinstance(pipeline.scheduler, TwinFlowScheduler)
    with pytest.raises(TwinFlowConfigError, match="load the base again"):
        unload_twinflow_lora(pipeline)
    assert torch.equal(draw(pipeline), image)


@pytest.fixture
def warnings(caplog):
    """The texts that were warned of since the last look."""
    diffusers_logging.enable_propagation()

    def take():
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    return take


def test_a_call_with_stock_defaults_warns_once_with_the_right_call(shared_repository, pipeline, warnings):
    load_twinflow_lora(pipeline, shared_repository)
    warnings()
    options = {"output_type": "latent", "max_sequence_length": 2}
    pipeline("a", **options)
    [text] = warnings()
    assert "28 steps and guidance_scale=7.0" in text
    assert "Pass num_inference_steps=2, guidance_scale=0.0." in text
    pipeline("a", **options)
    assert warnings() == []
    pipeline.set_progress_bar_config(disable=True)
    unload_twinflow_lora(pipeline)
    pipeline("a", **options)
    assert warnings() == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"num_inference_steps": 8}, None),
        ({"guidance_scale": 1.0}, None),
        ({"negative_prompt": ""}, None),
        ({"negative_prompt": "blurry"}, "negative_prompt has no effect"),
        ({"guidance_scale": 3.0}, "2 steps and guidance_scale=3.0"),
        ({"num_inference_steps": 50}, "takes 50 steps, which"),
        ({"sigmas": [1.0 - i / 20 for i in range(20)]}, "takes 20 steps, which"),
    ],
)
def test_which_calls_warn(shared_repository, pipeline, warnings, options, expected):
    load_twinflow_lora(pipeline, shared_repository)
    warnings()
    draw(pipeline, **options)
    texts = warnings()
    assert texts == [] if expected is None else len(texts) == 1 and expected in texts[0]


def test_a_twinflow_pipeline_warns_of_many_steps(shared_repository, warnings):
    pipeline = TwinFlowPipeline.from_pretrained(shared_repository)
    pipeline.set_progress_bar_config(disable=True)
    warnings()
    draw(pipeline)
    assert warnings() == []
    draw(pipeline, num_inference_steps=50)
    draw(pipeline, num_inference_steps=50)
    [text] = warnings()
    assert "50 steps" in text


def disable(transformer):
    transformer.disable_lora()


def leave_out(transformer):
    transformer.set_adapters("style", 1.0)


def delete(transformer):
    transformer.delete_adapters("twinflow")


@pytest.mark.parametrize("switch_off", [disable, leave_out, delete])
def test_an_adapter_switched_off_on_the_transformer_says_what_is_left(
    shared_repository, pipeline, warnings, switch_off
):
    scheduler = pipeline.scheduler
    add_style(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    switch_off(pipeline.transformer)
    warnings()
    draw(pipeline, num_inference_steps=28)
    draw(pipeline)
    [text] = warnings()
    assert "'twinflow' is not active" in text and "unload_twinflow_lora(pipe)" in text
    unload_twinflow_lora(pipeline)
    draw(pipeline)
    assert warnings() == [] and pipeline.scheduler is scheduler
    assert type(pipeline) is StableDiffusion3Pipeline


def test_the_loaded_pipeline_is_the_stock_one_in_name_and_signature(shared_repository, pipeline):
    stock = inspect.signature(StableDiffusion3Pipeline.__call__)
    load_twinflow_lora(pipeline, shared_repository)
    assert isinstance(pipeline, StableDiffusion3Pipeline) and type(pipeline).__name__ == "StableDiffusion3Pipeline"
    assert inspect.signature(type(pipeline).__call__) == stock
    assert inspect.signature(type(TwinFlowPipeline.from_pretrained(shared_repository)).__call__) == stock


def test_the_returned_configuration_is_shown_in_a_line(shared_repository, pipeline):
    text = repr(load_twinflow_lora(pipeline, shared_repository))
    assert "num_inference_steps=2" in text and "stable_diffusion_3" in text and len(text) < 300


def plain(tensor):
    return tensor if type(tensor) is torch.Tensor else tensor.dequantize()


def test_a_quantized_base_is_not_saved_as_a_whole_model(shared_repository, base_dir, tmp_path):
    quantization = quantization_config("torchao_int8", ["transformer"], torch.float32)
    pipeline = load_stock_pipeline(FAMILY, base_dir, quantization_config=quantization)
    load_twinflow_lora(pipeline, shared_repository)
    with pytest.raises(TwinFlowConfigError, match="transformer is quantized.*save_twinflow_lora"):
        pipeline.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_fused_on_a_torchao_base_unloads_exactly(shared_repository, base_dir, dtype):
    quantization = quantization_config("torchao_int8", ["transformer"], dtype)
    pipeline = load_stock_pipeline(FAMILY, base_dir, dtype=dtype, quantization_config=quantization)
    pipeline.set_progress_bar_config(disable=True)
    weight = pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    before = {name: plain(tensor).clone() for name, tensor in pipeline.transformer.state_dict().items()}
    stock = draw(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    pipeline.fuse_lora(adapter_names=["twinflow"])
    assert not torch.equal(draw(pipeline), stock)
    unload_twinflow_lora(pipeline)
    assert type(pipeline.transformer.transformer_blocks[0].attn.to_q.weight) is type(weight)
    assert_same(before, {name: plain(tensor) for name, tensor in pipeline.transformer.state_dict().items()})
    assert torch.equal(draw(pipeline), stock)


def assert_same(before, after):
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_weights_draw_the_same_and_unload_exactly(shared_repository, base_dir, dtype, caplog):
    pipeline = load_stock_pipeline(FAMILY, base_dir, dtype=dtype)
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
    pipeline = load_stock_pipeline(FAMILY, shutil.copytree(base_dir, tmp_path / "base"))
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

    monkeypatch.setattr(TimeConditioning, "load_state_dict", run_out)
    with pytest.raises(RuntimeError, match="out of memory"):
        load_twinflow_lora(pipeline, shared_repository)
    after = state(pipeline)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert pipeline.scheduler is scheduler and torch.equal(draw(pipeline), picture)


@pytest.mark.parametrize("task", [StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline])
def test_loaded_on_a_pipeline_of_another_task(shared_repository, pipeline, task):
    """The LoRA, its time conditioning and its scheduler are on the pipeline, and come off again."""
    pipeline = task(**pipeline.components)
    before, scheduler = state(pipeline), pipeline.scheduler
    load_twinflow_lora(pipeline, shared_repository)
    assert isinstance(pipeline, task) and isinstance(pipeline.scheduler, TwinFlowScheduler)
    assert pipeline.transformer.twinflow_enabled and pipeline.get_active_adapters() == ["twinflow"]
    unload_twinflow_lora(pipeline)
    after = state(pipeline)
    assert type(pipeline) is task and pipeline.scheduler is scheduler
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_unloaded_from_a_compiled_transformer(shared_repository, pipeline, in_place):
    torch._dynamo.reset()
    stock, expected = copy.deepcopy(pipeline), draw(pipeline)
    load_twinflow_lora(pipeline, shared_repository)
    eager = draw(pipeline)
    if in_place:
        pipeline.transformer.compile(backend="eager")
    else:
        pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")
    torch.testing.assert_close(draw(pipeline), eager)
    unload_twinflow_lora(pipeline)
    assert type(uncompiled(pipeline.transformer)) is type(stock.transformer)
    torch.testing.assert_close(draw(pipeline), expected)
    torch._dynamo.reset()
