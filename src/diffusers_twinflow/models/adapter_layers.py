"""The layers of a model that PEFT put in place of the layers that its adapters adapt."""

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

if TYPE_CHECKING:

    class AdapterLayer(nn.Module, BaseTunerLayer):
        """What all adapter layers of PEFT are. PEFT has no class for it; more attributes depend on the adapter."""

        def __getattr__(self, name: str) -> Any: ...

else:
    AdapterLayer = BaseTunerLayer


def is_adapter_layer(module: nn.Module) -> TypeGuard[AdapterLayer]:
    """Whether a module is a layer with adapters."""
    return isinstance(module, BaseTunerLayer)


def base_layer(module: nn.Module) -> nn.Module:
    """The layer that an adapter adapts; a module without an adapter is its own."""
    return module.get_base_layer() if is_adapter_layer(module) else module


def has_adapters(model: nn.Module) -> bool:
    """Whether any layer of a model holds an adapter."""
    return any(is_adapter_layer(module) for module in model.modules())


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The weight of a layer.

    Raises:
        TypeError: if the layer has a module or nothing under this name.
    """
    weight = layer.weight
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"A {type(layer).__name__} has no weight to read, because its `weight` is no tensor.")
    return weight
