"""Adapter methods for pipelines whose TwinFlow LoRA may be merged into the weights."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..families import family_of
from .merging import merged_lora_of, unmerge_lora

NEED_SEPARATE = (
    "load_lora_weights",
    "set_adapters",
    "fuse_lora",
    "unfuse_lora",
    "disable_lora",
    "enable_lora",
    "set_lora_device",
    "enable_lora_hotswap",
)


def adapter_methods(stock: type[DiffusionPipeline]) -> dict[str, Callable]:
    """Make the adapter methods of a stock class treat a merged TwinFlow LoRA like any other adapter.

    Methods that change adapters first unmerge the LoRA. Methods that list adapters include its name.

    Args:
        stock: stock pipeline class whose methods are wrapped.

    Returns:
        The wrapped methods by name, for a subclass of `stock`.
    """
    methods = {name: _with_separate_lora(getattr(stock, name)) for name in NEED_SEPARATE if hasattr(stock, name)}
    for name, listed in (("get_active_adapters", _active_adapters), ("get_list_adapters", _list_adapters)):
        if hasattr(stock, name):
            methods[name] = listed(getattr(stock, name))
    return methods


def _with_separate_lora(method: Callable) -> Callable:
    @wraps(method)
    def changed(self: DiffusionPipeline, *args: Any, **kwargs: Any) -> Any:
        unmerge_lora(self)
        return method(self, *args, **kwargs)

    return changed


def _active_adapters(method: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @wraps(method)
    def listed(self: DiffusionPipeline) -> list[str]:
        merged = merged_lora_of(family_of(self).denoiser(self))
        return [*([merged.adapter_name] if merged is not None else []), *method(self)]

    return listed


def _list_adapters(method: Callable[..., dict[str, list[str]]]) -> Callable[..., dict[str, list[str]]]:
    @wraps(method)
    def listed(self: DiffusionPipeline) -> dict[str, list[str]]:
        found = method(self)
        for component, transformer in family_of(self).denoisers(self).items():
            merged = merged_lora_of(transformer)
            if merged is not None:
                found[component] = [merged.adapter_name, *found.get(component, [])]
        return found

    return listed
