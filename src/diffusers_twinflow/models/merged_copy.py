"""Copy a model with its adapters merged, without changing the model."""

from collections.abc import Iterable
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

    The copy computes the same output as the model does now. Active adapters are merged with their current weights,
    inactive and disabled ones are left out, and fused ones stay fused. The copy shares all tensors with the model except
    weights that an adapter changes, so use it for reading and saving, not for training.

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

    copied = cast(Copied, copy_of(model))  # the class is the same, except that a root layer loses its adapters
    if getattr(copied, "_hf_peft_config_loaded", False):
        vars(copied)["_hf_peft_config_loaded"] = False
    vars(copied).pop("peft_config", None)
    return copied


@torch.no_grad()
def _merged_layer(layer: AdapterLayer, base: nn.Module) -> nn.Module:
    """Return the base layer with the active adapters of `layer` merged and the disabled ones unmerged.

    The sum is computed in float32 and rounded once to the dtype of the base.
    """
    disabled, merged = layer.disable_adapters, bool(layer.merged_adapters)
    if disabled != merged:  # already merged and active, or neither
        return base
    if not disabled and not _has_active_adapter(layer):
        return base
    if any(parameter.is_meta for parameter in layer.parameters()):
        raise ValueError(
            "An adapter cannot be merged, because the weights are on the meta device. Save the model before offloading."
        )
    if not disabled and is_plain_lora(layer, layer.active_adapters):
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
    """Return a merged parameter in the dtype of the parameter that it replaces."""
    if merged is None or parameter is None or not is_plain(parameter):
        return merged
    return nn.Parameter(merged.to(parameter.dtype), requires_grad=False)


def is_plain_lora(layer: nn.Module, adapters: Iterable[str]) -> TypeGuard[LoraLinear]:
    """Whether these adapters of a layer only add products of two matrices to a weight that is not quantized."""
    return (
        isinstance(layer, LoraLinear)
        and type(layer).merge is LoraLinear.merge
        and is_plain(weight_of(layer.get_base_layer()))
        and not layer.fan_in_fan_out
        and not any(layer.lora_variant.get(name) or layer.lora_bias.get(name) for name in adapters)
    )


def _with_low_rank_sum(layer: LoraLinear) -> torch.Tensor:
    """Compute the merged weight in blocks of rows, because a large temporary tensor would be slow."""
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
    """Copy an adapter layer so that it merges and unmerges in float32. The layer's tensors do not change.

    Args:
        layer: the adapter layer.
        base: the layer's base. It is not changed.
    """
    copied = _in_float32(layer)
    copied._modules["base_layer"] = _in_float32(base)
    copied.merged_adapters = list(layer.merged_adapters)
    return copied


def _in_float32(module: Copied) -> Copied:
    """Copy a module with all floating-point parameters, also of its children, in float32 or wider."""
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
    """Whether a tensor is an ordinary floating-point tensor of 16 bits or more, not a quantized one."""
    plain = type(tensor.data) is torch.Tensor and not hasattr(tensor, "quant_state")
    return plain and tensor.is_floating_point() and tensor.itemsize >= 2


def _has_active_adapter(layer: AdapterLayer) -> bool:
    active = set(layer.active_adapters)
    return bool(active & set(getattr(layer, "scaling", active)))
