"""DeepSpeed's ZeRO under accelerate, with weights in float32 and passes under autocast, as everywhere else here.

DeepSpeed's own mixed precision would keep the weights in half precision, where the teacher's average stands still.
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
    """Whether `accelerate launch` was given a configuration of DeepSpeed."""
    return os.environ.get(ENVIRONMENT_SWITCH, "false").lower() == "true"


def check_precision(mixed_precision: str) -> None:
    """Refuse float16, whose loss DeepSpeed scales only where it keeps the weights in float16 too."""
    if is_asked_for() and mixed_precision == "fp16":
        raise TwinFlowConfigError("mixed_precision=fp16 is not supported with DeepSpeed: use bf16.")


def configure(
    accelerator: Accelerator, dtype: torch.dtype, *, batch_size: int, accumulation_steps: int, max_grad_norm: float
) -> None:
    """Complete accelerate's configuration of DeepSpeed by what the training script's arguments say.

    Args:
        dtype: of the passes; float32 for none but the weights' own.
        batch_size: samples of one micro-batch of one process.
    """
    options: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": max_grad_norm,
    }
    if dtype != torch.float32:  # gradients are added up over the processes in float32: no module is named as safe
        name = str(dtype).removeprefix("torch.")
        options["torch_autocast"] = {"enabled": True, "dtype": name, "lower_precision_safe_modules": []}
    accelerator.deepspeed_plugin.deepspeed_config.update(options)


def autocast(accelerator: Accelerator) -> AbstractContextManager:
    """The context of passes beside DeepSpeed's own, such as the teacher's."""
    precision = accelerator.deepspeed_plugin.deepspeed_config.get("torch_autocast")
    if precision is None:
        return nullcontext()
    return torch.autocast(accelerator.device.type, getattr(torch, precision["dtype"]))
