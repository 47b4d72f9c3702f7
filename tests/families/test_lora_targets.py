"""The layers that a LoRA adapts by default, in models of the stock classes' default size."""

import fnmatch

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from diffusers_twinflow.families import FAMILIES

RANK = 64


IN_SHORT = ("stable_diffusion_3", "stable_diffusion_xl")


def full_size_model(name: str) -> nn.Module:
    """A family's stock model as its class makes it by default, on the meta device."""
    with torch.device("meta"):
        return FAMILIES[name].transformer_class.stock_class()()


@pytest.mark.parametrize(
    "name",
    [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in sorted(FAMILIES)],
)
def test_targets_are_layers_of_the_full_size_model(name):
    family, model = FAMILIES[name], full_size_model(name)
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    targets = family.lora_targets(model)
    with torch.device("meta"):
        inject_adapter_in_model(LoraConfig(r=RANK, target_modules=targets, init_lora_weights="gaussian"), model)
    layers = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}
    for target in family.lora_target_modules:
        assert any(path.endswith(f".{target}") or fnmatch.fnmatch(path, target) for path in layers), target
    weights = [layer.base_layer.weight for layer in layers.values()]
    assert all(isinstance(layer.base_layer, nn.Linear | nn.Conv2d) for layer in layers.values())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == sum(RANK * (len(weight) + weight[0].numel()) for weight in weights)
    covered = sum(weight.numel() for weight in weights if weight.ndim == 2)
    assert covered > 0.5 * linear
