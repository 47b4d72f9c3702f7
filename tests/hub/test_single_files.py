"""Transformers that diffusers reads from one file, safetensors or GGUF, with TwinFlow and a LoRA on them."""

import logging

import pytest
import torch
from diffusers import GGUFQuantizationConfig, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import is_gguf_available
from peft import LoraConfig
from safetensors.torch import save_file

from diffusers_twinflow import (
    TwinFlowConfigError,
    TwinFlowPipeline,
    TwinFlowScheduler,
    enable_twinflow,
    load_twinflow_lora,
    save_twinflow_lora,
    unload_twinflow_lora,
)
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel
from tests import tiny
from tests.families import tiny_qwen, tiny_z_image
from tests.hub.repositories import FAMILY, repository_config, train_conditioning

WIDE = {"attention_head_dim": 16, "caption_projection_dim": 32, "joint_attention_dim": 32}
BLOCK = 32
ABSENT = {"text_encoder_3": None, "tokenizer_3": None}
KINDS = [
    "safetensors",
    pytest.param("gguf", marks=pytest.mark.skipif(not is_gguf_available(), reason="needs the package gguf")),
]
QUANTIZED = 0.02
"""Largest difference that 8 bits make in the latents, relative to their largest value."""


def write_gguf(path, model):
    """As converters for ComfyUI do: weights of linear layers in 8 bits, and all else in float32."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "test")
    for name, tensor in model.state_dict().items():
        is_linear = name.endswith(".weight") and tensor.ndim == 2 and tensor.shape[1] % BLOCK == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if is_linear else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_one_file(model, directory, kind, dtype=torch.float32):
    """The stock model as diffusers reads it back from one file."""
    directory.mkdir(exist_ok=True)
    model.save_config(directory)
    path, options = directory / f"model.{kind}", {}
    if kind == "gguf":
        write_gguf(path, model)
        options["quantization_config"] = GGUFQuantizationConfig(compute_dtype=dtype)
    else:
        save_file(model.state_dict(), path)
    return type(model).from_single_file(str(path), config=str(directory), dtype=dtype, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny pipeline whose matrices fit the blocks of GGUF."""
    pipeline = tiny.sd3_pipeline()
    pipeline.transformer = tiny.sd3_transformer(**WIDE)
    directory = tmp_path_factory.mktemp("wide") / "base"
    pipeline.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def lora(base):
    """A TwinFlow LoRA that was trained on that base."""
    transformer = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel, **WIDE)
    transformer.enable_twinflow()
    train_conditioning(transformer)
    targets = FAMILY.lora_target_modules
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False))
    directory = base.parent / "lora"
    directory.mkdir()
    save_twinflow_lora(directory, transformer, repository_config("lora", str(base)), TwinFlowScheduler())
    return directory


def draw(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 0.0, "max_sequence_length": 2, "height": 16, "width": 16, "output_type": "latent"}
    return pipeline("a", num_inference_steps=2, generator=torch.manual_seed(0), **options).images.float()


def check_close(latents, expected):
    torch.testing.assert_close(latents, expected, rtol=0, atol=QUANTIZED * expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_twinflow_lora_on_it(base, lora, tmp_path, kind, dtype):
    expected = draw(TwinFlowPipeline.from_pretrained(lora, merge=False, dtype=dtype))
    transformer = in_one_file(SD3Transformer2DModel.from_pretrained(base / "transformer"), tmp_path, kind, dtype)
    pipeline = StableDiffusion3Pipeline.from_pretrained(base, transformer=transformer, dtype=dtype, **ABSENT)
    before = draw(pipeline)
    load_twinflow_lora(pipeline, lora)
    assert type(pipeline.transformer) is TwinFlowSD3Transformer2DModel
    check_close(draw(pipeline), expected)
    unload_twinflow_lora(pipeline)
    assert type(pipeline.transformer) is SD3Transformer2DModel
    assert torch.equal(draw(pipeline), before)


@pytest.mark.parametrize("kind", KINDS)
def test_in_one_line(base, lora, tmp_path, kind, caplog):
    caplog.set_level(logging.INFO, logger="diffusers_twinflow")
    expected = draw(TwinFlowPipeline.from_pretrained(lora))
    transformer = in_one_file(SD3Transformer2DModel.from_pretrained(base / "transformer"), tmp_path / "t", kind)
    pipeline = TwinFlowPipeline.from_pretrained(lora, transformer=transformer)
    check_close(draw(pipeline), expected)
    assert ("quantized" in caplog.text) == (kind == "gguf")
    if kind == "gguf":
        with pytest.raises(TwinFlowConfigError, match="is quantized"):
            pipeline.save_pretrained(tmp_path / "whole")
        assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize("build", [tiny_qwen.qwen_image, tiny_z_image.z_image], ids=["qwen_image", "z_image"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_lora_trains_on_it(build, tmp_path, kind):
    pipeline = build()
    stock = in_one_file(pipeline.transformer, tmp_path, kind)
    pipeline = type(pipeline)(**pipeline.components | {"transformer": stock})
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
    options = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}

    def latents():
        return pipeline("a", generator=torch.manual_seed(0), **options).images

    before = latents()
    transformer = enable_twinflow(stock)
    assert transformer.time_conditioning.time_sign_embed.weight.dtype == torch.float32
    assert torch.equal(latents(), before)
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    transformer.time_conditioning.requires_grad_(True)
    assert not torch.equal(latents(), before)

    calls = []
    handle = transformer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    latents()
    handle.remove()
    args, kwargs = calls[0]
    output = transformer(*args, **kwargs, timestep_sign=torch.tensor([-1.0]))[0]
    (output[0] if isinstance(output, list) else output).square().mean().backward()
    trained = {name for name, parameter in transformer.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[-2] for name in trained if "lora" in name} == {"default"}
    assert transformer.time_conditioning.time_sign_embed.weight.grad[1].any()
