"""Helpers for the adapter layers that PEFT puts in place of a model's own layers."""

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

if TYPE_CHECKING:

    class AdapterLayer(nn.Module, BaseTunerLayer):
        """The type of PEFT's adapter layers, for type checkers. More attributes depend on the kind of adapter."""

        def __getattr__(self, name: str) -> Any: ...

else:
    AdapterLayer = BaseTunerLayer


def is_adapter_layer(module: nn.Module) -> TypeGuard[AdapterLayer]:
    """Whether a module is a layer with adapters."""
    return isinstance(module, BaseTunerLayer)


def base_layer(module: nn.Module) -> nn.Module:
    """Return the layer that an adapter adapts, or the module itself if it has no adapter."""
    return module.get_base_layer() if is_adapter_layer(module) else module


def adapter_layers(model: nn.Module) -> list[AdapterLayer]:
    """Return the layers of a model that have adapters."""
    return [module for module in model.modules() if is_adapter_layer(module)]


def has_adapters(model: nn.Module) -> bool:
    """Whether any layer of a model has an adapter."""
    return any(is_adapter_layer(module) for module in model.modules())


def weight_of(layer: nn.Module) -> torch.Tensor:
    """Return the weight of a layer.

    Raises:
        TypeError: if the layer's `weight` is not a tensor.
    """
    weight = layer.weight
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"The `weight` of a {type(layer).__name__} is not a tensor, so it cannot be read.")
    return weight


def bias_of(layer: nn.Module) -> torch.Tensor | None:
    """Return the bias of a layer, or `None` if it has none."""
    bias = layer.bias
    return bias if isinstance(bias, torch.Tensor) else None
