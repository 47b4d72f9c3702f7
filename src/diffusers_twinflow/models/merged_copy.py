"""Copies of a model with its adapters merged, made without touching the model."""

from copy import deepcopy

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .unsharded import shallow_copy


def merged_copy(model: nn.Module) -> nn.Module:
    """Copy a model and merge its adapters into the layers that they adapt.

    The copy computes what the model computes at this moment: active adapters are merged with their present weights,
    inactive and disabled ones are left out, fused ones stay fused. It shares all tensors with the model except the
    weights that an adapter changes, so it is for reading and saving, not for training.

    Raises:
        ValueError: if a layer that must be merged has its weights on the meta device.
    """
    copies: dict[nn.Module, nn.Module] = {}

    def copy_of(module: nn.Module | None) -> nn.Module | None:
        if module is None:
            return None
        if module not in copies:
            if isinstance(module, BaseTunerLayer):
                copies[module] = _merged_layer(module, copy_of(module.get_base_layer()))
            else:
                copies[module] = shallow_copy(module)
                copies[module]._modules = {name: copy_of(child) for name, child in module._modules.items()}
        return copies[module]

    copied = copy_of(model)
    if getattr(copied, "_hf_peft_config_loaded", False):
        copied._hf_peft_config_loaded = False
    vars(copied).pop("peft_config", None)
    return copied


def has_adapters(model: nn.Module) -> bool:
    """Whether any layer of a model holds an adapter."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


@torch.no_grad()
def _merged_layer(layer: BaseTunerLayer, base: nn.Module) -> nn.Module:
    """The base layer as it would be after `layer`'s forward merged what is active and unmerged what is not."""
    disabled, merged = layer.disable_adapters, bool(layer.merged_adapters)
    if disabled != merged:  # already merged and active, or neither
        return base
    if not disabled and not _has_active_adapter(layer):
        return base
    if any(parameter.is_meta for parameter in layer.parameters()):
        raise ValueError("An adapter cannot be merged into weights on the meta device. Save before offloading.")
    base._parameters = {name: deepcopy(parameter) for name, parameter in base._parameters.items()}
    copied = shallow_copy(layer)
    copied._modules["base_layer"] = base
    copied.merged_adapters = list(layer.merged_adapters)
    if disabled:
        copied.unmerge()
    else:
        copied.merge()
    return base


def _has_active_adapter(layer: BaseTunerLayer) -> bool:
    active = set(layer.active_adapters)
    return bool(active & set(getattr(layer, "scaling", active)))
