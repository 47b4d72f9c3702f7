"""Read and write parameters that may be sharded over processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def reshard(module: nn.Module) -> None:
    """Free the whole parameters that FSDP keeps after a pass without a backward. Only their shards are up to date.

    Does nothing if the module is not sharded. A model with sharded parts is always sharded itself.
    """
    for child in module.modules() if isinstance(module, FSDPModule) else ():
        if isinstance(child, FSDPModule):
            child.reshard()


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a parameter, detached and sharing its memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a parameter gathered from all processes. All processes must call this."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Set a parameter, sharded or not, to a whole tensor. Every process must pass the same tensor."""
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device, parameter.dtype)
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(value)


@contextmanager
def gathered(module: nn.Module, keep: bool, wanted: Callable[[str], bool] | None = None) -> Iterator[None]:
    """Give a sharded module whole parameters on the CPU within the context, for saving.

    All processes must enter the context.

    Args:
        module: the module, sharded or not.
        keep: whether this process gets the whole parameters. The other processes only help to gather them.
        wanted: takes a parameter's name and returns whether to gather it; by default all are gathered.
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


@contextmanager
def only_trained_state(module: nn.Module) -> Iterator[None]:
    """Limit `state_dict` to the trainable parameters inside the block. `load_state_dict` accepts such a state.

    Use it for checkpoints: frozen weights and buffers come from the base, so they need not be saved.
    """
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}

    def drop_frozen(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
        for name in [name for name in state if name.removeprefix(prefix) not in trained]:
            del state[name]

    def accept_missing_frozen(_: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name in trained]

    hooks = [
        module.register_state_dict_post_hook(drop_frozen),
        module.register_load_state_dict_post_hook(accept_missing_frozen),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
