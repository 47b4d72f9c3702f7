"""Merge a TwinFlow LoRA into the weights of its base, and unmerge it exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging
from peft import get_peft_model_state_dict

from ..configuration import TwinFlowConfigError
from ..families import family_of
from ..models.adapter_layers import weight_of
from ..models.merged_copy import is_plain, merged_copy
from ..models.offloading import has_offloading_hook, is_offloaded_to_disk
from .adapter_states import activate_beside, adapted_layers, read_states
from .base_weights import BaseWeight, restore_weights, subtract_adapter, weights_in_files
from .lora_files import load_lora

logger = logging.get_logger(__name__)

MERGED_NAME = "_twinflow_merged_lora"


@dataclass(frozen=True)
class MergedLora:
    """A merged LoRA, with everything that unmerging it needs.

    Attributes:
        adapter_name: name of the adapter.
        weights: its low-rank weights on the CPU, by their names in the component.
        metadata: fields of its `LoraConfig`.
        base: base weight of each layer that the LoRA adapts.
    """

    adapter_name: str
    weights: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    base: dict[str, BaseWeight]


def merged_lora_of(transformer: ModelMixin) -> MergedLora | None:
    """Return the TwinFlow LoRA that is merged into a transformer's weights, or `None`."""
    return vars(transformer).get(MERGED_NAME)


def read_adapter(transformer: ModelMixin, adapter_name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return an adapter's low-rank weights and the fields of its `LoraConfig`. The adapter may be merged."""
    merged = merged_lora_of(transformer)
    if merged is not None and merged.adapter_name == adapter_name:
        return dict(merged.weights), dict(merged.metadata)
    weights = get_peft_model_state_dict(transformer, adapter_name=adapter_name)
    return weights, transformer.peft_config[adapter_name].to_dict()


def why_not_mergeable(transformer: ModelMixin) -> str | None:
    """Return why a transformer's adapter cannot be merged into its weights, or `None` if it can."""
    if len(transformer.peft_config) > 1:
        return "another adapter is on the model"
    if has_offloading_hook([transformer]):
        return "the model is offloaded"
    weights = [weight_of(layer.get_base_layer()) for _, layer in adapted_layers(transformer)]
    if getattr(transformer, "hf_quantizer", None) is not None or not all(map(is_plain, weights)):
        return "the base is quantized"
    return None


def merge_lora(pipeline: DiffusionPipeline, adapter_name: str, *, is_base_unchanged: bool = False) -> bool:
    """Merge the TwinFlow LoRA of a pipeline into the transformer's weights, which then runs as fast as the base.

    The sums are computed in float32 and rounded to the dtype of the weights. If the base is quantized, is offloaded or
    has another adapter, the LoRA is not merged and a log line says why.

    Args:
        pipeline: pipeline with the TwinFlow LoRA.
        adapter_name: name of the LoRA's adapter.
        is_base_unchanged: whether the base's weights are known to be equal to the weights in its files. If not, the
            files are read.

    Returns:
        Whether the LoRA is merged.
    """
    transformers = family_of(pipeline).denoisers(pipeline).values()
    reasons = [reason for reason in map(why_not_mergeable, transformers) if reason is not None]
    if reasons:
        logger.info(
            f"The TwinFlow LoRA is not merged into the weights, because {reasons[0]}. The images are the same."
        )
        return False
    try:
        for transformer in transformers:
            _merge(transformer, adapter_name, is_base_unchanged)
    except Exception:
        unmerge_lora(pipeline)
        raise
    return True


def _merge(transformer: ModelMixin, adapter_name: str, is_base_unchanged: bool) -> None:
    layers = {name: layer.get_base_layer() for name, layer in adapted_layers(transformer)}
    weights, metadata = read_adapter(transformer, adapter_name)
    weights = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    in_files = weights_in_files(transformer, layers, are_unchanged=is_base_unchanged)
    base: dict[str, BaseWeight] = {}
    try:
        for name, layer in adapted_layers(transformer):
            weight = weight_of(layers[name]).data
            merged = weight_of(merged_copy(layer))
            base[name] = BaseWeight.of(weight, is_in_files=name in in_files)
            with torch.no_grad():
                weight.copy_(merged)
    except Exception:
        restore_weights(transformer, base)
        raise
    transformer.unload_lora()
    vars(transformer)[MERGED_NAME] = MergedLora(adapter_name, weights, metadata, base)


def unmerge_lora(pipeline: DiffusionPipeline) -> None:
    """Unmerge the TwinFlow LoRA of a pipeline and restore the exact base weights.

    The base weights are read from the files that the base was loaded from. Weights that were in no file are copied from
    memory. If the files are gone, the weights are restored up to rounding, with a warning. Does nothing if no LoRA is
    merged.

    Raises:
        TwinFlowConfigError: if group offloading keeps the merged weights on disk.
    """
    merged = {
        name: transformer
        for name, transformer in family_of(pipeline).denoisers(pipeline).items()
        if merged_lora_of(transformer) is not None
    }
    for name, transformer in merged.items():
        if is_offloaded_to_disk(transformer):
            raise TwinFlowConfigError(
                f"the {name} is offloaded to disk with a merged LoRA, so its adapters cannot be changed or unloaded. Load "
                "the pipeline with merge=False."
            )
    inexact = [layer for transformer in merged.values() for layer in _unmerge(pipeline, transformer)]
    if inexact:
        logger.warning(
            f"The TwinFlow LoRA was merged, and the base's files no longer contain the weights of '{inexact[0]}' and "
            f"{len(inexact) - 1} other layers. These weights are restored up to rounding. Load the pipeline again to get "
            "the exact weights."
        )


def _unmerge(pipeline: DiffusionPipeline, transformer: ModelMixin) -> list[str]:
    """Unmerge the LoRA of a transformer, and return the layers whose weights are restored only up to rounding."""
    family, merged = family_of(pipeline), vars(transformer)[MERGED_NAME]
    before = read_states(transformer)
    if any(layer.merged_adapters for _, layer in adapted_layers(transformer)):
        transformer.unfuse_lora()
    inexact = restore_weights(transformer, merged.base)
    load_lora(family, pipeline, transformer, dict(merged.weights), dict(merged.metadata), merged.adapter_name)
    activate_beside(transformer, merged.adapter_name, before)
    layers = dict(adapted_layers(transformer))
    for name in inexact:
        subtract_adapter(layers[name], merged.adapter_name)
    delattr(transformer, MERGED_NAME)
    return inexact


@contextmanager
def separate_lora(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Unmerge a merged TwinFlow LoRA inside the `with` block, and merge it again afterwards."""
    found = map(merged_lora_of, family_of(pipeline).denoisers(pipeline).values())
    merged = [each for each in found if each is not None]
    unmerge_lora(pipeline)
    try:
        yield
    finally:
        if merged:
            were_in_files = all(weight.copy is None for each in merged for weight in each.base.values())
            merge_lora(pipeline, merged[0].adapter_name, is_base_unchanged=were_in_files)
