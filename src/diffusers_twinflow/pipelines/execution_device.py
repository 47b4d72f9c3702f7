"""The device that a pipeline runs on, found in one walk through its modules."""

from collections.abc import Iterable
from itertools import chain

import torch
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class QuickExecutionDevice:
    """Gives a pipeline's `_execution_device` the stock answer sooner: the stock property goes through all modules often.

    It is asked where a module has a hook of offloading, accelerate's or that of groups.
    """

    @property
    def _execution_device(self) -> torch.device:
        models = {name: value for name, value in sorted(vars(self).items()) if isinstance(value, nn.Module)}
        if has_offloading_hook(models.values()):
            return super()._execution_device
        devices = [device_of(model) for name, model in models.items() if name in self.config]
        accelerators = [device for device in devices if device.type not in ("cpu", "meta")]
        return next(chain(accelerators, devices), torch.device("cpu"))


def has_offloading_hook(models: Iterable[nn.Module]) -> bool:
    """Whether any module of these models has a hook that may move it."""
    modules, seen = [*models], set()
    while modules:
        module = modules.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        attributes = vars(module)
        if "_hf_hook" in attributes:
            return True
        hooks = attributes.get("_diffusers_hook")
        if hooks is not None and hooks.get_hook(_GROUP_OFFLOADING) is not None:
            return True
        modules.extend(attributes["_modules"].values())
    return False


def device_of(model: nn.Module) -> torch.device:
    """`model.device` of a model without hooks, for which diffusers would look once more."""
    if getattr(type(model), "device", None) is ModelMixin.device:
        for tensor in chain(model.parameters(), model.buffers()):
            return tensor.device
    return model.device
