"""Copy modules that `fully_shard` may have changed."""

from collections import OrderedDict
from typing import TypeVar

from torch import nn
from torch.distributed.fsdp import FSDPModule

Copied = TypeVar("Copied", bound=nn.Module)

FSDP_STATE = "__composable_api_state_key"
"""Prefix of the attributes in which `fully_shard` stores its state."""


def shallow_copy(module: Copied) -> Copied:
    """Copy a module without copying its tensors and children. The copy has separate dictionaries of them.

    A sharded module is copied as a module of its original class, because FSDP's classes can be neither created nor
    copied. Its parameters must be whole.
    """
    is_sharded = isinstance(module, FSDPModule)
    cls: type[Copied] = type(module).__bases__[1] if is_sharded else type(module)
    copied = cls.__new__(cls)
    vars(copied).update({name: value for name, value in vars(module).items() if not name.startswith(FSDP_STATE)})
    vars(copied).update({name: dict(vars(module)[name]) for name in ("_parameters", "_buffers", "_modules")})
    if is_sharded:
        for name in [name for name in vars(copied) if name.endswith("_hooks")]:
            vars(copied)[name] = OrderedDict()
    return copied
