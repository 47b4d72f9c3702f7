"""Work on several processes: checks, autocast, gradient clipping, placing the teacher, and deciding together."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from accelerate.utils.fsdp_utils import fsdp2_prepare_model

from ..configuration import TwinFlowConfigError
from ..families import Family
from ..models.denoisers_by_time import denoisers_in
from ..sharding import only_trained_state, whole
from . import deepspeed

Result = TypeVar("Result")


def check_distributed(accelerator: Accelerator, offload_ema: bool = False) -> None:
    """Check that the way the processes were launched is supported.

    Raises:
        TwinFlowConfigError:
            - if accelerate does not join the processes, so that each would train alone.
            - if FSDP has version 1, whose flat parameters have no names.
            - if ZeRO has stage 3, whose parameters are empty between passes.
            - if `offload_ema` is on, but the teacher is sharded or the run is on the CPU.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > accelerator.num_processes:
        raise TwinFlowConfigError(
            f"{launched} processes were launched (WORLD_SIZE), but accelerate uses only {accelerator.num_processes} on "
            f"{accelerator.device}. Check that torch.cuda.is_available() is true, or set ACCELERATE_USE_CPU=true to "
            "train on the CPU."
        )
    if uses_deepspeed(accelerator) and accelerator.deepspeed_plugin.zero_stage == 3:
        raise TwinFlowConfigError(
            "zero_stage=3 in the accelerate configuration is not supported. Set zero_stage: 2 as in "
            "examples/accelerate/deepspeed.yaml, or use examples/accelerate/fsdp2.yaml to shard the weights too."
        )
    if offload_ema and (accelerator.is_fsdp2 or accelerator.device.type == "cpu"):
        why = "the teacher is sharded" if accelerator.is_fsdp2 else "this run is on the CPU"
        raise TwinFlowConfigError(f"`offload_ema` cannot be used, because {why}. Leave it out.")
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise TwinFlowConfigError(
            "fsdp_version=1 in the accelerate configuration is not supported. Set fsdp_version: 2 as in "
            "examples/accelerate/fsdp2.yaml."
        )


def check_sharding(accelerator: Accelerator, family: Family) -> None:
    """Check that all processes would make the same passes if the weights are sharded.

    Raises:
        TwinFlowConfigError: if the number of passes depends on the number of samples, which differs between processes.
    """
    if family.takes_one_sample and shards_parameters(accelerator):
        raise TwinFlowConfigError(
            f"{family.pipeline_class.__name__} cannot be trained with sharded weights (FSDP2), because its model runs once "
            "per sample, and processes have different numbers of samples in a pass. Use several processes without FSDP2."
        )


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Return whether DeepSpeed takes the optimizer steps, which it does at the end of the backward pass."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def autocast(accelerator: Accelerator) -> AbstractContextManager:
    """Return the autocast context for the run's precision. accelerate's context does nothing with DeepSpeed."""
    return deepspeed.autocast(accelerator) if uses_deepspeed(accelerator) else accelerator.autocast()


def clip_grad_norm(accelerator: Accelerator, parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Clip the gradients over all processes. DeepSpeed clips by itself.

    Returns:
        The norm of the gradients before clipping.
    """
    norm = accelerator.clip_grad_norm_(parameters, max_norm)
    return whole(norm) if isinstance(norm, torch.Tensor) else torch.tensor(norm, device=accelerator.device)


def shards_parameters(accelerator: Accelerator) -> bool:
    """Return whether forward passes gather parameters from all processes, so that all must run the same passes."""
    return accelerator.is_fsdp2


def checkpoint_state(accelerator: Accelerator, model: torch.nn.Module) -> AbstractContextManager:
    """Return the context in which accelerate saves and loads its state without frozen weights.

    With FSDP2, accelerate saves the whole model by itself. Otherwise `TrainedWeights` or DeepSpeed's options leave the
    frozen weights out.
    """
    return only_trained_state(model) if accelerator.is_fsdp2 else nullcontext()


def place_teacher(accelerator: Accelerator, copy: Any, offload: bool) -> Any:
    """Move a frozen copy of the student to its device, or shard it.

    Args:
        copy: model from `copy_for_teacher`. It is sharded in place if the student is sharded.
        offload: keep the copy on the CPU, and move one block at a time to the device when it runs.
    """
    if accelerator.is_fsdp2:
        return fsdp2_prepare_model(accelerator, copy)
    if offload:
        for denoiser in denoisers_in(copy):
            denoiser.enable_group_offload(
                onload_device=accelerator.device, offload_type="block_level", num_blocks_per_group=1, use_stream=True
            )
    return copy


def on_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Run `work` in the main process, and return its result or raise its error in every process."""
    outcome: list = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (TwinFlowConfigError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


class TimeLimit:
    """Tells all processes at the same step when the time of a run is over.

    Args:
        minutes: time limit in minutes from now. `None` for no limit.
    """

    def __init__(self, minutes: float | None, accelerator: Accelerator) -> None:
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.accelerator = accelerator

    def is_over(self) -> bool:
        """Return whether the time is over for any process. All processes must call it.

        Several processes wait for each other and for their devices. A single process only looks at its clock.
        """
        if self.deadline is None:
            return False
        is_over = time.monotonic() > self.deadline
        if self.accelerator.num_processes == 1:
            return is_over
        count = torch.tensor(float(is_over), device=self.accelerator.device)
        return bool(self.accelerator.reduce(count, reduction="sum"))
