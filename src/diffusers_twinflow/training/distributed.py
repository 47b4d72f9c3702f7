"""What training on several processes needs beside accelerate: checks, autocast, clipping and a sharded teacher."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model

from ..configuration import TwinFlowConfigError
from ..sharding import whole
from . import deepspeed


def check_distributed(accelerator: Accelerator, offload_ema: bool = False) -> None:
    """Refuse what would train wrongly.

    Raises:
        TwinFlowConfigError: for processes that accelerate does not join, each of which would train and write by itself;
            for FSDP of version 1, whose flat parameters have no names to train by; for ZeRO of stage 3, whose
            parameters are empty between passes; and for a teacher on the CPU where there is no other device or where it
            is sharded.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > accelerator.num_processes:
        raise TwinFlowConfigError(
            f"WORLD_SIZE={launched} processes were launched, but accelerate joins {accelerator.num_processes} on "
            f"{accelerator.device}: make their devices available (torch.cuda.is_available()), or set "
            "ACCELERATE_USE_CPU=true to train on the CPU."
        )
    if uses_deepspeed(accelerator) and accelerator.deepspeed_plugin.zero_stage == 3:
        raise TwinFlowConfigError(
            "zero_stage=3 of the accelerate configuration is not supported: set zero_stage: 2, as "
            "examples/accelerate/deepspeed.yaml does, or spread the weights too with examples/accelerate/fsdp2.yaml."
        )
    if offload_ema and (accelerator.is_fsdp2 or accelerator.device.type == "cpu"):
        why = "the teacher is sharded" if accelerator.is_fsdp2 else "this run is on the CPU"
        raise TwinFlowConfigError(f"`offload_ema` has no use where {why}: leave it out.")
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise TwinFlowConfigError(
            "fsdp_version=1 of the accelerate configuration is not supported: set fsdp_version: 2, as "
            "examples/accelerate/fsdp2.yaml does."
        )


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed takes the steps, which it does at the end of the backward pass."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def autocast(accelerator: Accelerator) -> AbstractContextManager:
    """The context of passes in the run's precision; accelerate's own does nothing with DeepSpeed."""
    return deepspeed.autocast(accelerator) if uses_deepspeed(accelerator) else accelerator.autocast()


def clip_grad_norm(accelerator: Accelerator, parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Clip the gradients of all processes; returns their norm before, which DeepSpeed, that clips by itself, tells."""
    norm = accelerator.clip_grad_norm_(parameters, max_norm)
    return whole(norm) if isinstance(norm, torch.Tensor) else torch.tensor(norm, device=accelerator.device)


def shards_parameters(accelerator: Accelerator) -> bool:
    """Whether a forward pass gathers parameters from all processes, so that all must make the same passes."""
    return accelerator.is_fsdp2


def place_teacher(accelerator: Accelerator, copy: Any, offload: bool) -> Any:
    """Put a frozen copy of the student where it belongs.

    Args:
        copy: a diffusers model from `copy_for_teacher`; sharded in place where the student is.
        offload: keep it on the CPU, and bring a block at a time to the device when it runs.
    """
    if accelerator.is_fsdp2:
        return fsdp2_prepare_model(accelerator, copy)
    if offload:
        copy.enable_group_offload(
            onload_device=accelerator.device, offload_type="block_level", num_blocks_per_group=1, use_stream=True
        )
    return copy
