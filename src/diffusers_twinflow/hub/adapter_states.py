"""Read and restore which adapters are active on each layer of a model."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..models.adapter_layers import AdapterLayer, is_adapter_layer


@dataclass(frozen=True)
class LayerState:
    """The adapters that are active on one layer, and whether the layer ignores them."""

    active: tuple[str, ...]
    disabled: bool

    def without(self, adapter_name: str) -> "LayerState":
        return LayerState(tuple(name for name in self.active if name != adapter_name), self.disabled)


AdapterStates = dict[str, LayerState]


def adapted_layers(model: torch.nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Yield the name and the layer of every layer that has an adapter."""
    return ((name, module) for name, module in model.named_modules() if is_adapter_layer(module))


def read_states(model: torch.nn.Module) -> AdapterStates:
    """Read the current state of every adapted layer. Adapter weights are not included: nothing here changes them."""
    return {
        name: LayerState(tuple(layer.active_adapters), layer.disable_adapters) for name, layer in adapted_layers(model)
    }


def restore_states(model: torch.nn.Module, states: AdapterStates) -> None:
    """Activate and enable the adapters of each layer as `states` says. Layers that are not in it do not change."""
    for name, layer in adapted_layers(model):
        if name in states:
            layer.set_adapter(list(states[name].active))
            layer.enable_adapters(not states[name].disabled)


def activate_beside(model: torch.nn.Module, adapter_name: str, states: AdapterStates) -> None:
    """Activate an adapter together with the adapters that were active and enabled in `states`.

    Every layer gets the same active names, as with diffusers' `set_adapters`. The scales of the other adapters do not
    change, including scales per block.
    """
    for name, layer in adapted_layers(model):
        before = states.get(name)
        others = before.active if before is not None and not before.disabled else _active_names(states)
        layer.set_adapter([*others, adapter_name])
        layer.enable_adapters(True)


def states_without(model: torch.nn.Module, adapter_name: str, before: AdapterStates) -> AdapterStates:
    """Return the states that a model has after an adapter is removed.

    Other adapters that are active now stay active. If no other adapter is active, all are disabled, and `enable_lora`
    activates the adapters in `before`, the states before the removed adapter was added.
    """
    states = {name: state.without(adapter_name) for name, state in read_states(model).items()}
    for name, state in states.items():
        if not state.active:
            kept = before[name].active if name in before else ()
            states[name] = LayerState(kept, disabled=True)
    return states


def is_active(model: torch.nn.Module, adapter_name: str) -> bool:
    """Return whether an adapter changes the model's output: it is active and enabled on at least one layer."""
    return any(
        adapter_name in layer.active_adapters and adapter_name in getattr(layer, "scaling", {})
        for _, layer in adapted_layers(model)
        if not layer.disable_adapters
    )


def active_adapters(model: torch.nn.Module) -> list[str]:
    """Return the adapters that change the model's output and are not merged into its weights, sorted by name."""
    names = {
        name
        for _, layer in adapted_layers(model)
        if not layer.disable_adapters
        for name in layer.active_adapters
        if name not in layer.merged_adapters
    }
    return sorted(names)


def is_fused(model: torch.nn.Module, adapter_name: str) -> bool:
    """Return whether an adapter is merged into the weights of at least one layer."""
    return any(adapter_name in layer.merged_adapters for _, layer in adapted_layers(model))


def _active_names(states: AdapterStates) -> tuple[str, ...]:
    return next((state.active for state in states.values() if not state.disabled), ())
