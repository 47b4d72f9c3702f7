"""Recognize modules whose weights diffusers or accelerate moves between devices."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING
from torch import nn


def has_offloading_hook(models: Iterable[nn.Module]) -> bool:
    """Whether any module of these models has a hook that may move it."""
    return any(True for _ in _offloading_hooks(models))


def is_offloaded_to_disk(model: nn.Module) -> bool:
    """Whether group offloading stores weights of a model in files on disk."""
    return any(
        getattr(getattr(hook, "config", None), "offload_to_disk_path", None) for hook in _offloading_hooks([model])
    )


def stored_weight(module: nn.Module) -> torch.Tensor:
    """Return the tensor that stores a module's weight. Writing to it changes the weight, even if it is offloaded."""
    weight: Any = module.weight
    hook: Any = vars(module).get("_hf_hook")
    return hook.weights_map["weight"] if weight.is_meta else weight.data


def _offloading_hooks(models: Iterable[nn.Module]) -> Iterator[Any]:
    modules: list[nn.Module | None] = [*models]
    seen: set[nn.Module] = set()
    while modules:
        module = modules.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        attributes = vars(module)
        if "_hf_hook" in attributes:
            yield attributes["_hf_hook"]
        hooks = attributes.get("_diffusers_hook")
        hook = hooks.get_hook(_GROUP_OFFLOADING) if hooks is not None else None
        if hook is not None:
            yield hook
        modules.extend(attributes["_modules"].values())
