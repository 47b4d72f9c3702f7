"""Copies of a model with its adapters merged, made without touching the model."""

from copy import deepcopy
from typing import TypeGuard, TypeVar, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from .adapter_layers import AdapterLayer, is_adapter_layer, weight_of
from .unsharded import shallow_copy

BLOCK_ROWS = 1024

Copied = TypeVar("Copied", bound=nn.Module)


def merged_copy(model: Copied) -> Copied:
    """Copy a model and merge its adapters into the layers that they adapt.

    The copy computes what the model computes at this moment: active adapters are merged with their present weights,
    inactive and disabled ones are left out, fused ones stay fused. It shares all tensors with the model except the
    weights that an adapter changes, so it is for reading and saving, not for training.

    Raises:
        ValueError: if a layer that must be merged has its weights on the meta device.
    """
    copies: dict[nn.Module, nn.Module] = {}

    def copy_of(module: nn.Module) -> nn.Module:
        if module not in copies:
            if is_adapter_layer(module):
                copies[module] = _merged_layer(module, copy_of(module.get_base_layer()))
            else:
                copies[module] = shallow_copy(module)
                copies[module]._modules = {
                    name: None if child is None else copy_of(child) for name, child in module._modules.items()
                }
        return copies[module]

    copied = cast(Copied, copy_of(model))  # the class is the model's, except that a root layer loses its adapters
    if getattr(copied, "_hf_peft_config_loaded", False):
        vars(copied)["_hf_peft_config_loaded"] = False
    vars(copied).pop("peft_config", None)
    return copied


@torch.no_grad()
def _merged_layer(layer: AdapterLayer, base: nn.Module) -> nn.Module:
    """The base layer as it would be after `layer`'s forward merged what is active and unmerged what is not.

    The sum is computed in float32 and rounded once, to the dtype of the base.
    """
    disabled, merged = layer.disable_adapters, bool(layer.merged_adapters)
    if disabled != merged:  # already merged and active, or neither
        return base
    if not disabled and not _has_active_adapter(layer):
        return base
    if any(parameter.is_meta for parameter in layer.parameters()):
        raise ValueError("An adapter cannot be merged into weights on the meta device. Save before offloading.")
    if not disabled and _is_plain_lora(layer):
        base._parameters["weight"] = nn.Parameter(_with_low_rank_sum(layer), requires_grad=False)
        return base
    exact = exact_copy(layer, base)
    if disabled:
        exact.unmerge()
    else:
        exact.merge()
    merged_parameters = exact.get_base_layer()._parameters
    base._parameters = {
        name: _as_stored(merged_parameters[name], parameter) for name, parameter in base._parameters.items()
    }
    return base


def _as_stored(merged: nn.Parameter | None, parameter: nn.Parameter | None) -> nn.Parameter | None:
    """A merged parameter in the dtype of the one that it replaces."""
    if merged is None or parameter is None or not is_plain(parameter):
        return merged
    return nn.Parameter(merged.to(parameter.dtype), requires_grad=False)


def _is_plain_lora(layer: nn.Module) -> TypeGuard[LoraLinear]:
    """Whether the active adapters add a product of two matrices to the weight, and nothing else."""
    return (
        isinstance(layer, LoraLinear)
        and type(layer) is LoraLinear
        and is_plain(weight_of(layer.get_base_layer()))
        and not layer.fan_in_fan_out
        and not any(layer.lora_variant.get(name) or layer.lora_bias.get(name) for name in layer.active_adapters)
    )


def _with_low_rank_sum(layer: LoraLinear) -> torch.Tensor:
    """The merged weight, in blocks of rows: a large temporary tensor costs more time than the arithmetic."""
    weight = weight_of(layer.get_base_layer()).detach()
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    factors = [
        (weight_of(layer.lora_A[name]).to(dtype), weight_of(layer.lora_B[name]).to(dtype), layer.scaling[name])
        for name in names
    ]
    merged = torch.empty_like(weight)
    for start in range(0, len(weight), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        total = weight[rows]
        for lora_a, lora_b, scale in factors:
            total = (lora_b[rows] @ lora_a).mul_(scale).add_(total)
        merged[rows] = total
    return merged


def exact_copy(layer: AdapterLayer, base: nn.Module) -> AdapterLayer:
    """A copy of an adapter's layer that merges and unmerges in float32; the tensors of the layer stay as they are.

    Args:
        base: the layer's base. It is not changed.
    """
    copied = _in_float32(layer)
    copied._modules["base_layer"] = _in_float32(base)
    copied.merged_adapters = list(layer.merged_adapters)
    return copied


def _in_float32(module: Copied) -> Copied:
    """A copy whose own and whose children's floating parameters are copies in float32 or wider."""
    copied = shallow_copy(module)
    for name, parameter in copied._parameters.items():
        if parameter is not None and is_plain(parameter):
            wide = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            copied._parameters[name] = nn.Parameter(wide, requires_grad=False)
        elif parameter is not None:
            copied._parameters[name] = deepcopy(parameter)
    copied._modules = {
        name: child if child is None or name == "base_layer" else _in_float32(child)
        for name, child in copied._modules.items()
    }
    return copied


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds ordinary floating numbers of 16 bits or more, which weights can be added to."""
    plain = type(tensor.data) is torch.Tensor and not hasattr(tensor, "quant_state")
    return plain and tensor.is_floating_point() and tensor.itemsize >= 2


def _has_active_adapter(layer: AdapterLayer) -> bool:
    active = set(layer.active_adapters)
    return bool(active & set(getattr(layer, "scaling", active)))
