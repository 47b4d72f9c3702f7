"""Use DeepSpeed's ZeRO with accelerate, with weights in float32 and passes under autocast.

DeepSpeed's mixed precision is not used: it keeps the weights in half precision, in which the teacher's moving average
would not change.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator

from ..configuration import TwinFlowConfigError

ENVIRONMENT_SWITCH = "ACCELERATE_USE_DEEPSPEED"
SAVE_OPTIONS = {"exclude_frozen_parameters": True}
LOAD_OPTIONS = {"load_module_strict": False}


def is_asked_for() -> bool:
    """Return whether `accelerate launch` was given a DeepSpeed configuration."""
    return os.environ.get(ENVIRONMENT_SWITCH, "false").lower() == "true"


def check_precision(mixed_precision: str) -> None:
    """Refuse float16, because DeepSpeed scales the loss only if the weights are in float16 too."""
    if is_asked_for() and mixed_precision == "fp16":
        raise TwinFlowConfigError("mixed_precision=fp16 is not supported with DeepSpeed: use bf16.")


def configure(
    accelerator: Accelerator, dtype: torch.dtype, *, batch_size: int, accumulation_steps: int, max_grad_norm: float
) -> None:
    """Add the training arguments to accelerate's DeepSpeed configuration.

    Args:
        dtype: dtype of the passes. float32 means no autocast.
        batch_size: samples per micro-batch and process.
    """
    options: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": max_grad_norm,
    }
    if dtype != torch.float32:  # no module is listed as safe, so gradients are summed over processes in float32
        name = str(dtype).removeprefix("torch.")
        options["torch_autocast"] = {"enabled": True, "dtype": name, "lower_precision_safe_modules": []}
    accelerator.deepspeed_plugin.deepspeed_config.update(options)


def autocast(accelerator: Accelerator) -> AbstractContextManager:
    """Return the autocast context for passes outside DeepSpeed, such as those of the teacher."""
    precision = accelerator.deepspeed_plugin.deepspeed_config.get("torch_autocast")
    if precision is None:
        return nullcontext()
    return torch.autocast(accelerator.device.type, getattr(torch, precision["dtype"]))
