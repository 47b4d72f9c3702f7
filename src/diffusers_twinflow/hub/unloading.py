"""Unload a TwinFlow LoRA from a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging

from ..configuration import TwinFlowConfigError
from ..families import family_of
from ..models import disable_twinflow, is_twinflow_transformer
from ..models.adapter_layers import is_adapter_layer
from .adapter_states import AdapterStates, is_fused, restore_states, states_without
from .base_weights import unfuse_exactly
from .merging import unmerge_lora
from .pipeline_classes import as_stock_pipeline

logger = logging.get_logger(__name__)

STATE_NAME = "_twinflow_lora"


@dataclass(frozen=True)
class LoadedLora:
    """A loaded TwinFlow LoRA, with everything that unloading it needs.

    Attributes:
        adapter_name: name of the adapter.
        scheduler: scheduler that the pipeline had before.
        before: states of the other adapters before, by component.
        is_baked: whether the adapter was fused and then unloaded, so that it is part of the weights.
    """

    adapter_name: str
    scheduler: Any
    before: Mapping[str, AdapterStates]
    is_baked: bool = False


def unload_twinflow_lora(pipeline: DiffusionPipeline) -> None:
    """Unload the TwinFlow LoRA and restore the stock transformer and the earlier scheduler exactly. Other LoRAs stay.

    If the LoRA was merged or fused, the base weights are read again from the files that the base was loaded from. If
    the files are gone, the weights are restored up to rounding, with a warning. Weights that were in no file when the
    LoRA was merged are copied back from CPU memory.

    Args:
        pipeline: pipeline with a TwinFlow LoRA.

    Raises:
        TwinFlowConfigError: if the pipeline has no TwinFlow LoRA, or the LoRA was fused and then unloaded.
    """
    state = getattr(pipeline, STATE_NAME, None)
    if state is None:
        raise TwinFlowConfigError("the pipeline has no TwinFlow LoRA. Load one with load_twinflow_lora first.")
    if state.is_baked:
        raise TwinFlowConfigError(
            "the TwinFlow LoRA was fused and then unloaded, so it is part of the weights now: load the base again."
        )
    unmerge_lora(pipeline)
    denoisers = family_of(pipeline).denoisers(pipeline)
    fused = [each for each in denoisers.values() if is_fused(each, state.adapter_name)]
    inexact = [layer for each in fused for layer in unfuse_exactly(each)]
    if inexact:
        logger.warning(
            f"The TwinFlow LoRA was fused, and the base's files do not contain the weights of '{inexact[0]}' and "
            f"{len(inexact) - 1} other layers. These weights are restored up to rounding. Load the pipeline again to get "
            "the exact weights."
        )
    after = {
        name: states_without(each, state.adapter_name, state.before.get(name, {})) for name, each in denoisers.items()
    }
    remove_adapter(pipeline, state.adapter_name, after)
    restore_pipeline(pipeline)


def restore_pipeline(pipeline: DiffusionPipeline) -> None:
    """Remove a TwinFlow LoRA's time conditioning, scheduler and class from a pipeline, but not its low-rank weights."""
    state = getattr(pipeline, STATE_NAME)
    for transformer in family_of(pipeline).denoisers(pipeline).values():
        if is_twinflow_transformer(transformer):
            disable_twinflow(transformer)
    pipeline.scheduler = state.scheduler
    delattr(pipeline, STATE_NAME)
    as_stock_pipeline(pipeline)


def remove_adapter(pipeline: DiffusionPipeline, adapter_name: str, states: Mapping[str, AdapterStates]) -> None:
    """Remove an adapter from the denoisers and put their other adapters into the given states, by component."""
    for name, transformer in family_of(pipeline).denoisers(pipeline).items():
        _remove(transformer, adapter_name, states.get(name, {}))


def _remove(transformer: ModelMixin, adapter_name: str, states: AdapterStates) -> None:
    adapters = set(getattr(transformer, "peft_config", None) or {})
    if adapters == {adapter_name}:
        transformer.unload_lora()
    else:
        restore_states(transformer, states)
        if adapter_name in adapters:
            transformer.delete_adapters(adapter_name)
            _unwrap_plain_layers(transformer)
    if is_twinflow_transformer(transformer):
        disable_twinflow(transformer)


def _unwrap_plain_layers(transformer: ModelMixin) -> None:
    """Replace adapter layers that have no adapter left with the layer of the base."""
    for name, module in list(transformer.named_modules()):
        if is_adapter_layer(module) and not module.r:
            transformer.set_submodule(name, module.get_base_layer())
