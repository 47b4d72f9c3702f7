"""Quantize the frozen base of a LoRA with the libraries that diffusers supports."""

import importlib.util
from collections.abc import Callable, Sequence

import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig

from ..configuration import TwinFlowConfigError

LIBRARIES = {"bnb_4bit": "bitsandbytes", "torchao_int8": "torchao"}


def check_quantization(name: str | None, train_type: str) -> None:
    """Check before anything is loaded that the base can be quantized.

    Args:
        name: a key of `LIBRARIES`, or `None` to not quantize.
        train_type: "lora" or "full".

    Raises:
        TwinFlowConfigError: if it cannot.
    """
    if name is None:
        return
    if train_type != "lora":
        raise TwinFlowConfigError(
            f"quantize_base={name} needs a frozen base, but train_type={train_type} trains it. Use train_type=lora."
        )
    library = LIBRARIES[name]
    if importlib.util.find_spec(library) is None:
        raise TwinFlowConfigError(f"quantize_base={name} needs {library}: pip install {library}.")
    if name == "bnb_4bit" and not torch.cuda.is_available():
        raise TwinFlowConfigError("quantize_base=bnb_4bit needs a GPU: use quantize_base=torchao_int8 on a CPU.")


def quantization_config(name: str, components: Sequence[str], dtype: torch.dtype) -> PipelineQuantizationConfig:
    """Build the configuration that quantizes only the trained components while the pipeline is loaded.

    Args:
        name: "bnb_4bit" (NF4 with double quantization) or "torchao_int8" (weights only).
        components: names of the trained components in the pipeline.
        dtype: dtype in which the layers compute.
    """
    build: dict[str, Callable] = {"bnb_4bit": _bitsandbytes_nf4, "torchao_int8": _torchao_int8}
    return PipelineQuantizationConfig(quant_mapping={each: build[name](dtype) for each in components})


def _bitsandbytes_nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _torchao_int8(dtype: torch.dtype) -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())
