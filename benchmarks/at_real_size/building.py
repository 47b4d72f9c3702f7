"""Build models with random weights directly on the device, so that 20 billion weights take seconds."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin, no_init_weights
from diffusers.quantizers import DiffusersAutoQuantizer

from diffusers_twinflow.training.quantization import quantization_config

from .models import RealModel


@contextmanager
def created_as(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Create tensors on the device and with the dtype inside the block."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(default)


def random_model(cls: type[ModelMixin], config: dict, device: torch.device, dtype: torch.dtype) -> ModelMixin:
    """Return a frozen model with the initial weights of its class."""
    with created_as(device, dtype):
        model = cls(**config)
    return model.to(dtype).requires_grad_(False).eval()


def random_transformer(
    model: RealModel, device: torch.device, dtype: torch.dtype, quantize_base: str | None = None
) -> ModelMixin:
    """Return the frozen transformer of a base.

    Args:
        quantize_base: a name of `diffusers_twinflow.training.quantization.LIBRARIES`.
    """
    if quantize_base is None:
        return random_model(model.transformer_class, model.transformer, device, dtype)
    return quantized_transformer(model, device, dtype, quantize_base)


def quantized_transformer(
    model: RealModel, device: torch.device, dtype: torch.dtype, quantize_base: str
) -> ModelMixin:
    """Return a transformer as diffusers quantizes it while loading, with a random tensor for each weight."""
    config = quantization_config(quantize_base, ["transformer"], dtype).quant_mapping["transformer"]
    quantizer = DiffusersAutoQuantizer.from_config(config, pre_quantized=False)
    quantizer.validate_environment()
    with no_init_weights(), init_empty_weights():
        transformer = model.transformer_class(**model.transformer)
    shapes = {name: parameter.shape for name, parameter in transformer.named_parameters()}
    quantizer.preprocess_model(transformer, device_map=None, keep_in_fp32_modules=[])
    for name, shape in shapes.items():
        value = random_weight(name, shape, device, dtype)
        if quantizer.check_if_quantized_param(transformer, value, name, {}, param_device=device):
            quantizer.create_quantized_param(transformer, value, name, device, {}, [], dtype=dtype)
        else:
            set_module_tensor_to_device(transformer, name, device, value=value, dtype=dtype)
    for name, buffer in list(transformer.named_buffers()):
        set_module_tensor_to_device(transformer, name, device, value=buffer, dtype=dtype)
    transformer.hf_quantizer = quantizer
    quantizer.postprocess_model(transformer)
    return transformer.requires_grad_(False).eval()


def random_weight(name: str, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return an initial weight: uniform within 1 / sqrt(inputs); 0 for a bias, 1 for the scale of a norm."""
    if len(shape) < 2:
        start = torch.zeros if name.endswith("bias") else torch.ones
        return start(shape, device=device, dtype=dtype)
    bound = shape[1:].numel() ** -0.5
    return torch.empty(shape, device=device, dtype=dtype).uniform_(-bound, bound)


def random_pipeline(model: RealModel, device: torch.device, dtype: torch.dtype) -> DiffusionPipeline:
    """Return the stock pipeline without text encoders, because prompts are given as embeddings."""
    components = {
        "transformer": random_transformer(model, device, dtype),
        "scheduler": FlowMatchEulerDiscreteScheduler(**model.scheduler),
        "vae": model.vae and random_model(AutoencoderKL, model.vae, device, dtype),
    }
    parameters = inspect.signature(model.pipeline_class.__init__).parameters.values()
    absent = {p.name: None for p in parameters if p.name != "self" and p.default is p.empty}
    pipeline = model.pipeline_class(**(absent | components))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
