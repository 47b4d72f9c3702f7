"""What sharded training needs beside accelerate: the same passes on every process, a sharded teacher, whole tensors."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from ..configuration import TwinFlowConfigError
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
        raise TwinFlowConfigError(f"--offload_ema has no use where {why}: leave it out.")
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


def clip_grad_norm(accelerator: Accelerator, parameters: list[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Clip the gradients of all processes; returns their norm before, which DeepSpeed, that clips by itself, tells."""
    norm = accelerator.clip_grad_norm_(parameters, max_norm)
    return whole(norm) if isinstance(norm, torch.Tensor) else torch.tensor(norm, device=accelerator.device)


def shards_parameters(accelerator: Accelerator) -> bool:
    """Whether a forward pass gathers parameters from all processes, so that all must make the same passes."""
    return accelerator.is_fsdp2


def place_teacher(accelerator: Accelerator, copy: ModelMixin, offload: bool) -> ModelMixin:
    """Put a frozen copy of the student where it belongs.

    Args:
        copy: from `copy_for_teacher`; sharded in place where the student is.
        offload: keep it on the CPU, and bring a block at a time to the device when it runs.
    """
    if accelerator.is_fsdp2:
        return fsdp2_prepare_model(accelerator, copy)
    if offload:
        copy.enable_group_offload(
            onload_device=accelerator.device, offload_type="block_level", num_blocks_per_group=1, use_stream=True
        )
    return copy


def reshard(module: nn.Module) -> None:
    """Let go of the whole parameters that FSDP keeps after a pass without a backward; their shards are the truth.

    A module is looked through only where it is sharded itself, as every model is that has sharded parts.
    """
    for child in module.modules() if isinstance(module, FSDPModule) else ():
        if isinstance(child, FSDPModule):
            child.reshard()


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a parameter that this process holds, sharing its memory and without its gradient."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter gathered from all processes, which must all call this."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Set a parameter, sharded or not, to a whole tensor that every process holds."""
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device, parameter.dtype)
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(value)


@contextmanager
def gathered(module: nn.Module, keep: bool, wanted: Callable[[str], bool] | None = None) -> Iterator[None]:
    """Within the context a sharded module holds whole parameters on the CPU, to be saved; all processes enter it.

    Args:
        keep: whether this process will save; the others only take part.
        wanted: whether to gather the parameter of that name; by default all.
    """
    reshard(module)
    sharded = [
        (owner, name, parameter)
        for prefix, owner in module.named_modules()
        for name, parameter in owner._parameters.items()
        if isinstance(parameter, DTensor) and (wanted is None or wanted(f"{prefix}.{name}"))
    ]
    for owner, name, parameter in sharded:
        tensor = whole(parameter)
        if keep:
            owner._parameters[name] = nn.Parameter(tensor.cpu(), requires_grad=parameter.requires_grad)
    try:
        yield
    finally:
        for owner, name, parameter in sharded:
            owner._parameters[name] = parameter
