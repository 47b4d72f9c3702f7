"""Parameters that are sharded over processes: their local parts, and the whole tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


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
