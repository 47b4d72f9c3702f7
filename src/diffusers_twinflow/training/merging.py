"""Decide whether a LoRA is trained on merged weights."""

import psutil
import torch
from accelerate import Accelerator
from torch import nn

from ..models.merged_lora import MergedLora, merged_size
from .arguments import TrainingArguments
from .distributed import shards_parameters

DEFAULT_SHARE = 1 / 16
"""Share of the device's memory that the merged weights may take by default."""
GIGABYTE = 10**9


def merged_lora(transformer: nn.Module, args: TrainingArguments, accelerator: Accelerator) -> MergedLora | None:
    """Prepare a LoRA student for merged weights. Returns `None` if they cannot be used or need too much memory.

    Merged weights have no dropout, and sharded or quantized weights cannot be merged.

    Args:
        transformer: the student, before it is compiled or wrapped. Its adapter layers change their class.
        args: the arguments, of which `merged_lora_gigabytes` is the limit.
        accelerator: the accelerator of the run.
    """
    if args.lora_dropout or shards_parameters(accelerator) or not MergedLora.can_merge(transformer):
        return None
    limit = args.merged_lora_gigabytes
    most = DEFAULT_SHARE * memory_of(accelerator.device) if limit is None else limit * GIGABYTE
    return MergedLora(transformer, compiled=args.compile) if merged_size(transformer) <= most else None


def memory_of(device: torch.device) -> int:
    """Return the memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total
