"""A TwinFlow LoRA merged into the base's weights: the same images, files and adapters, and unmerging."""

import copy
import gc
import inspect
import shutil

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora, unload_twinflow_lora
from diffusers_twinflow.hub import merging, save_twinflow_lora
from diffusers_twinflow.hub.base_weights import fingerprint
from diffusers_twinflow.hub.merging import merged_lora_of, separate_lora
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.pipelines.bare_base import bare_base
from diffusers_twinflow.training.quantization import quantization_config
from tests import tiny
from tests.hub.repositories import FAMILY, repository_config


@pytest.fixture(autouse=True)
def logs_stay_in_the_test():
    yield
    diffusers_logging.disable_propagation()


@pytest.fixture
def merged(shared_repository):
    return load(shared_repository)


@pytest.fixture
def separate(shared_repository):
    return load(shared_repository, merge=False)


@pytest.fixture(scope="module")
def base_state(base_dir):
    return state(load_stock_pipeline(FAMILY, base_dir))


@pytest.fixture
def style_dir(tmp_path, base_dir):
    """A plain LoRA as others publish it."""
    transformer = load_stock_pipeline(FAMILY, base_dir).transformer
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["attn.to_q", "attn.to_v"], init_lora_weights=False)
    transformer.add_adapter(config, adapter_name="style")
    weights = get_peft_model_state_dict(transformer, adapter_name="style")
    StableDiffusion3Pipeline.save_lora_weights(tmp_path / "style", weights)
    return tmp_path / "style"


def load(repository, **options):
    pipeline = TwinFlowPipeline.from_pretrained(repository, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, **options):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(pipeline.transformer.dtype)
    options = {"num_inference_steps": 2, "guidance_scale": 0.0, "max_sequence_length": 2, "latents": latents} | options
    torch.manual_seed(0)
    return pipeline("a picture", output_type="latent", **options).images


def state(pipeline):
    return {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}


def assert_same(before, after):
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def adapted(pipeline):
    return [module for module in pipeline.transformer.modules() if isinstance(module, BaseTunerLayer)]


def test_a_loaded_pipeline_is_merged_and_draws_the_same(merged, separate):
    assert not adapted(merged) and len(adapted(separate)) == len(merged_lora_of(merged.transformer).base)
    assert not hasattr(merged.transformer, "peft_config")
    assert type(merged.transformer.transformer_blocks[0].attn.to_q) is torch.nn.Linear
    torch.testing.assert_close(draw(merged), draw(separate), atol=1e-4, rtol=1e-4)
    assert not torch.equal(draw(merged), draw(load_stock_pipeline(FAMILY, merged.twinflow_config.base_model)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unloading_a_merged_lora_is_exact(shared_repository, base_dir, dtype, caplog):
    diffusers_logging.enable_propagation()
    pipeline, before = load(shared_repository, dtype=dtype), state(load_stock_pipeline(FAMILY, base_dir, dtype=dtype))
    assert not torch.equal(
        state(pipeline)["transformer_blocks.0.attn.to_q.weight"], before["transformer_blocks.0.attn.to_q.weight"]
    )
    unload_twinflow_lora(pipeline)
    assert_same(before, state(pipeline))
    assert type(pipeline) is StableDiffusion3Pipeline and type(pipeline.transformer) is SD3Transformer2DModel
    assert type(pipeline.scheduler) is FlowMatchEulerDiscreteScheduler
    assert merged_lora_of(pipeline.transformer) is None and "rounding" not in caplog.text


def test_the_files_of_the_base_stay_as_they_are(shared_repository, base_dir):
    path = base_dir / "transformer" / "diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    load(shared_repository, dtype=torch.float32)
    gc.collect()
    assert path.read_bytes() == before


def test_no_copy_of_the_base_is_kept(merged):
    assert all(weight.copy is None for weight in merged_lora_of(merged.transformer).base.values())


def test_weights_that_are_in_no_file_are_copied(shared_repository, base_dir):
    """Those of a component that was given, or that were changed since they were loaded."""
    given = load(shared_repository, transformer=tiny.sd3_transformer())
    changed = load_stock_pipeline(FAMILY, base_dir)
    with torch.no_grad():
        changed.transformer.transformer_blocks[0].attn.to_q.weight.add_(0.5)
    before = state(changed)
    load_twinflow_lora(changed, shared_repository, merge=True)
    copied = {n for n, weight in merged_lora_of(changed.transformer).base.items() if weight.copy is not None}
    assert copied == {"transformer_blocks.0.attn.to_q"}
    assert all(weight.copy is not None for weight in merged_lora_of(given.transformer).base.values())
    unload_twinflow_lora(changed)
    assert_same(before, state(changed))
    unload_twinflow_lora(given)
    assert_same(tiny.sd3_transformer().state_dict(), state(given))


def test_without_the_files_the_base_comes_back_up_to_rounding(shared_repository, base_dir, tmp_path, caplog):
    base = shutil.copytree(base_dir, tmp_path / "base")
    pipeline, before = load(shared_repository, base_model=str(base)), state(load_stock_pipeline(FAMILY, base))
    shutil.rmtree(base / "transformer")
    diffusers_logging.enable_propagation()
    unload_twinflow_lora(pipeline)
    torch.testing.assert_close(state(pipeline), before, atol=1e-6, rtol=1e-5)
    assert "up to rounding" in caplog.text


def test_other_weights_in_the_files_are_not_taken_for_the_base(shared_repository, base_dir, tmp_path, caplog):
    base = shutil.copytree(base_dir, tmp_path / "base")
    pipeline, before = load(shared_repository, base_model=str(base)), state(load_stock_pipeline(FAMILY, base))
    tiny.sd3_pipeline().transformer.to(torch.bfloat16).save_pretrained(base / "transformer")
    diffusers_logging.enable_propagation()
    unload_twinflow_lora(pipeline)
    torch.testing.assert_close(state(pipeline), before, atol=1e-6, rtol=1e-5)
    assert "up to rounding" in caplog.text


def test_bf16_merged_is_about_as_close_to_float32_as_bf16_separate(shared_repository):
    exact = draw(load(shared_repository, merge=False))
    errors = [
        (draw(load(shared_repository, dtype=torch.bfloat16, merge=merge)).float() - exact).norm()
        for merge in (True, False)
    ]
    assert 0 < errors[0] < 2 * errors[1]


def test_a_merged_weight_is_rounded_once(shared_repository, base_dir):
    pipeline = load(shared_repository, dtype=torch.bfloat16)
    weights = merged_lora_of(pipeline.transformer).weights
    base = load_stock_pipeline(FAMILY, base_dir, dtype=torch.bfloat16).transformer
    name = "transformer_blocks.0.attn.to_q"
    low_rank = weights[f"{name}.lora_B.weight"].float() @ weights[f"{name}.lora_A.weight"].float()
    expected = (base.get_submodule(name).weight.float() + low_rank).to(torch.bfloat16)
    assert torch.equal(pipeline.transformer.get_submodule(name).weight, expected)


def test_a_second_lora_puts_the_first_beside_the_weights(merged, separate, style_dir):
    for pipeline in (merged, separate):
        pipeline.load_lora_weights(style_dir, adapter_name="style")
        pipeline.set_adapters(["twinflow", "style"], [1.0, 0.5])
    assert set(merged.get_active_adapters()) == {"twinflow", "style"} == set(merged.get_list_adapters()["transformer"])
    assert torch.equal(draw(merged), draw(separate))
    unload_twinflow_lora(merged)
    unload_twinflow_lora(separate)
    assert merged.get_active_adapters() == ["style"]
    assert_same(state(separate), state(merged))


def test_the_list_of_adapters_names_a_merged_lora(merged):
    assert merged.get_active_adapters() == ["twinflow"]
    assert merged.get_list_adapters() == {"transformer": ["twinflow"]}
    assert not adapted(merged)


@pytest.mark.parametrize(
    "change",
    [
        lambda pipe: pipe.set_adapters("twinflow", 0.5),
        lambda pipe: pipe.disable_lora(),
        lambda pipe: pipe.enable_lora(),
        lambda pipe: pipe.fuse_lora(lora_scale=0.5),
        lambda pipe: pipe.unfuse_lora(),
        lambda pipe: pipe.set_lora_device(["twinflow"], "cpu"),
    ],
    ids=["set_adapters", "disable_lora", "enable_lora", "fuse_lora", "unfuse_lora", "set_lora_device"],
)
def test_adapter_methods_do_what_they_do_to_a_separate_lora(merged, separate, base_state, change):
    change(merged)
    change(separate)
    assert_same(state(separate), state(merged))
    assert torch.equal(draw(merged), draw(separate))
    unload_twinflow_lora(merged)
    assert_same(base_state, state(merged))


@pytest.mark.parametrize("name", ["load_lora_weights", "fuse_lora", "get_list_adapters"])
def test_adapter_methods_keep_their_signature(merged, name):
    stock = getattr(StableDiffusion3Pipeline, name)
    assert inspect.signature(getattr(type(merged), name)) == inspect.signature(stock)
    assert getattr(type(merged), name).__doc__ == stock.__doc__


@pytest.mark.parametrize(
    "unload",
    [
        unload_twinflow_lora,
        lambda pipe: pipe.unload_lora_weights(),
        lambda pipe: pipe.delete_adapters("twinflow"),
    ],
    ids=["unload_twinflow_lora", "unload_lora_weights", "delete_adapters"],
)
def test_every_way_of_unloading_gives_the_base_back(merged, base_state, unload):
    unload(merged)
    assert type(merged) is StableDiffusion3Pipeline
    assert_same(base_state, state(merged))


def test_an_adapter_added_to_the_transformer_itself_stays(merged, separate):
    for pipeline in (merged, separate):
        torch.manual_seed(5)
        config = LoraConfig(r=4, target_modules=["attn.to_q", "attn.to_v"], init_lora_weights=False)
        pipeline.transformer.add_adapter(config, adapter_name="style")
    separate.transformer.set_adapters(["twinflow", "style"])
    torch.testing.assert_close(draw(merged), draw(separate), atol=1e-4, rtol=1e-4)
    merged.transformer.fuse_lora()
    for pipeline in (merged, separate):
        unload_twinflow_lora(pipeline)
        assert pipeline.get_active_adapters() == ["style"]
    assert_same(state(separate), state(merged))


def test_a_pipeline_made_from_a_merged_one_loads_a_second_lora(merged, separate, style_dir):
    other = TwinFlowPipeline.from_pipe(merged, dtype=torch.float32)
    other.set_progress_bar_config(disable=True)
    assert other.get_active_adapters() == ["twinflow"]
    for pipeline in (other, separate):
        pipeline.load_lora_weights(style_dir, adapter_name="style")
        pipeline.set_adapters(["twinflow", "style"])
    assert torch.equal(draw(other), draw(separate))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_pipeline_saves_the_files_of_a_separate_one(shared_repository, tmp_path, dtype):
    for merge in (True, False):
        load(shared_repository, dtype=dtype, merge=merge).save_pretrained(tmp_path / str(merge))
    names = sorted(str(p.relative_to(tmp_path / "True")) for p in (tmp_path / "True").rglob("*") if p.is_file())
    assert names == sorted(
        str(p.relative_to(tmp_path / "False")) for p in (tmp_path / "False").rglob("*") if p.is_file()
    )
    for name in (n for n in names if n.endswith(".safetensors")):
        assert_same(load_file(tmp_path / "False" / name), load_file(tmp_path / "True" / name))


def test_a_merged_lora_is_saved_as_the_plain_lora(merged, separate, tmp_path):
    for name, pipeline in (("merged", merged), ("separate", separate)):
        (tmp_path / name).mkdir()
        config = repository_config("lora", pipeline.twinflow_config.base_model)
        save_twinflow_lora(tmp_path / name, pipeline.transformer, config, pipeline.scheduler, adapter_name="twinflow")
    weights = "pytorch_lora_weights.safetensors"
    torch.testing.assert_close(load_file(tmp_path / "merged" / weights), load_file(tmp_path / "separate" / weights))
    assert torch.equal(draw(load(tmp_path / "merged", merge=False)), draw(separate))


def test_a_stock_pipeline_keeps_the_lora_separate_unless_told(shared_repository, pipeline, base_state, separate):
    load_twinflow_lora(pipeline, shared_repository)
    assert adapted(pipeline)
    unload_twinflow_lora(pipeline)
    load_twinflow_lora(pipeline, shared_repository, merge=True)
    assert not adapted(pipeline) and pipeline.get_active_adapters() == ["twinflow"]
    torch.testing.assert_close(draw(pipeline), draw(separate), atol=1e-4, rtol=1e-4)
    with pytest.raises(TwinFlowConfigError, match="unload_twinflow_lora"):
        load_twinflow_lora(pipeline, shared_repository, adapter_name="again")
    unload_twinflow_lora(pipeline)
    assert_same(base_state, state(pipeline))


def test_beside_another_lora_it_stays_separate(shared_repository, pipeline, style_dir, caplog):
    pipeline.load_lora_weights(style_dir, adapter_name="style")
    with caplog.at_level("INFO", logger="diffusers_twinflow"):
        load_twinflow_lora(pipeline, shared_repository, merge=True)
    assert set(pipeline.get_active_adapters()) == {"twinflow", "style"} and adapted(pipeline)
    assert "not merged into the weights, because another adapter is on the model" in caplog.text


def test_on_a_quantized_base_it_stays_separate(shared_repository, caplog):
    quantized = quantization_config("torchao_int8", ["transformer"], torch.float32)
    with caplog.at_level("INFO", logger="diffusers_twinflow"):
        pipeline = load(shared_repository, quantization_config=quantized)
    assert adapted(pipeline) and merged_lora_of(pipeline.transformer) is None
    assert "not merged into the weights, because the base is quantized" in caplog.text
    assert draw(pipeline).isfinite().all()


def test_a_failure_while_merging_leaves_the_pipeline_as_it_was(shared_repository, pipeline, monkeypatch):
    before = state(pipeline)
    calls = []

    def run_out(layer):
        calls.append(layer)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return original(layer)

    original = merging.merged_copy
    monkeypatch.setattr(merging, "merged_copy", run_out)
    with pytest.raises(RuntimeError, match="out of memory"):
        load_twinflow_lora(pipeline, shared_repository, merge=True)
    assert_same(before, state(pipeline))
    assert type(pipeline) is StableDiffusion3Pipeline and type(pipeline.transformer) is SD3Transformer2DModel


def test_the_base_between_merged_images(merged, base_state):
    expected = draw(merged)
    stock = draw(load_stock_pipeline(FAMILY, merged.twinflow_config.base_model))
    with bare_base(merged) as base:
        assert torch.equal(draw(base), stock)
        assert_same(
            base_state,
            {
                n.replace(".base_layer", ""): t
                for n, t in state(base).items()
                if n.replace(".base_layer", "") in base_state
            },
        )
    assert not adapted(merged)
    assert torch.equal(draw(merged), expected)
    with separate_lora(merged):
        assert adapted(merged)
    unload_twinflow_lora(merged)
    assert_same(base_state, state(merged))


def test_under_group_offloading(merged, base_state):
    expected = draw(merged)
    merged.transformer.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(draw(merged), expected)
    unload_twinflow_lora(merged)
    assert_same(base_state, state(merged))
    assert torch.equal(draw(merged), draw(load_stock_pipeline(FAMILY, merged.config._name_or_path)))


def test_under_group_offloading_to_disk_unloading_says_what_to_do(merged, tmp_path):
    options = {"offload_type": "leaf_level", "offload_to_disk_path": str(tmp_path / "offloaded")}
    merged.transformer.enable_group_offload(torch.device("cpu"), torch.device("cpu"), **options)
    with pytest.raises(TwinFlowConfigError, match="merge=False"):
        unload_twinflow_lora(merged)


def test_an_offloaded_pipeline_keeps_the_lora_separate(shared_repository, pipeline, separate):
    pipeline.transformer.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    load_twinflow_lora(pipeline, shared_repository, merge=True)
    assert adapted(pipeline)
    assert torch.equal(draw(pipeline), draw(separate))


def test_a_copy_of_a_merged_pipeline_unloads_alone(merged, base_state):
    expected, copied = draw(merged), copy.deepcopy(merged)
    unload_twinflow_lora(copied)
    assert_same(base_state, state(copied))
    assert torch.equal(draw(merged), expected)


@pytest.mark.parametrize("shape", [(3,), (5, 7), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_fingerprint_tells_the_last_bit(shape, dtype):
    tensor = torch.randn(shape).to(dtype)
    other = tensor.clone()
    other.view(-1)[-1] = torch.nextafter(other.view(-1)[-1], torch.tensor(float("inf"), dtype=dtype))
    assert fingerprint(tensor) == fingerprint(tensor.clone()) != fingerprint(other)
