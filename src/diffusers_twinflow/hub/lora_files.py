"""Write a LoRA as a plain diffusers file, and load LoRA weights into a stock pipeline."""

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from ..families import Family
from ..models import enable_twinflow


def save_lora(
    family: Family, directory: str | Path, weight_name: str, weights: dict[str, torch.Tensor], metadata: dict[str, Any]
) -> None:
    """Save low-rank weights of a family's model as a plain diffusers LoRA.

    Args:
        family: the family of the model.
        directory: output folder.
        weight_name: name of the file.
        weights: low-rank weights by their names in the model.
        metadata: fields of the adapter's `LoraConfig`.
    """
    component = family.component_name
    if not family.saves_lora_by_pipeline:
        layers: dict[str, nn.Module | torch.Tensor] = {**weights}
        LoraBaseMixin._save_lora_weights(
            directory, {component: layers}, {component: metadata}, weight_name=weight_name
        )
        return
    named = {"lora_layers": weights, "lora_adapter_metadata": metadata}
    pipeline_class: Any = family.pipeline_class  # LoRA loaders are mixins of the stock pipelines
    pipeline_class.save_lora_weights(
        directory, weight_name=weight_name, **{f"{component}_{name}": value for name, value in named.items()}
    )


def load_lora(
    family: Family,
    pipeline: DiffusionPipeline,
    denoiser: ModelMixin,
    weights: dict[str, torch.Tensor],
    metadata: dict[str, Any],
    adapter_name: str,
) -> None:
    """Load low-rank weights into a pipeline's model. A stock class that takes no adapters becomes a TwinFlow class.

    Args:
        family: the family of the pipeline.
        pipeline: the pipeline.
        denoiser: the model, one of the family's denoisers in the pipeline.
        weights: low-rank weights by their names in the model.
        metadata: fields of the adapter's `LoraConfig`.
        adapter_name: name of the adapter.
    """
    if not isinstance(denoiser, PeftAdapterMixin):
        enable_twinflow(denoiser, family.transformer_class)
    denoiser.load_lora_adapter(weights, prefix=None, metadata=metadata, adapter_name=adapter_name, _pipeline=pipeline)
