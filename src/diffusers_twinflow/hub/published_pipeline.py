"""Load a published transformer of the TwinFlow authors or SimpleTuner as a pipeline with the authors' settings."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..schedulers import TwinFlowScheduler
from .base_loading import load_base
from .component_check import FILE_ENDINGS, check_component
from .files import INDEX_NAME
from .model_loading import check_weights, component_options
from .published import PATTERNS, load_located_transformer
from .published_config import family_of_published, named_base, own_components
from .published_folders import PublishedFolder, located
from .stock_pipelines import assemble

SAMPLER: Mapping[str, Any] = MappingProxyType(
    {
        "sampling_style": "few",
        "shift": 1.0,
        "stochastic_ratio": 1.0,
        "gap_start": 0.001,
        "gap_end": [0.6, 0.6, 0.5],
        "kumaraswamy": [1.0, 1.0, 1.0],
        "extrapolation_ratio": 0.0,
        "sampling_order": 1,
    }
)
"""The authors' settings for 2 and for 4 steps, from the README of github.com/inclusionAI/TwinFlow."""

NOT_SUPPORTED = ("device_map", "quantization_config")


def load_published_pipeline(
    published: PublishedFolder, *, base_model: str | None = None, **options: Any
) -> DiffusionPipeline:
    """Load the stock pipeline of a published transformer, with a scheduler that has the authors' settings.

    The other components are loaded from the folder of the transformer. If some are missing there, all of them are
    loaded from a base model: `base_model`, or the base that the model card names, or the family's usual base.

    Args:
        base_model: local directory or Hub repository of a base pipeline. If given, the other components always come
            from it.
        options: arguments of `DiffusionPipeline.from_pretrained`, without the Hub options. Components that you pass
            here are used unchanged.

    Raises:
        TwinFlowConfigError: if no base is known, or the transformer or the base cannot be loaded.
    """
    name, family = published.repository.name, family_of_published(published)
    for option in NOT_SUPPORTED:
        if options.get(option) is not None:
            raise TwinFlowConfigError(
                f"{option} cannot be used with the published checkpoint '{name}'. Convert it with `diffusers-twinflow "
                f"convert`, load its {family.component_name} with {option}, and pass it as {family.component_name}=."
            )
    transformer = options.pop(family.component_name, None)
    scheduler = options.pop("scheduler", None)
    options = {"use_safetensors": True} | options
    others = {family.component_name: None, **options}
    if base_model is None and own_components(published):
        pipeline = load_base(family, str(_fetch(published)), **others)
    else:
        hub_options = {k: v for k, v in published.repository.hub_options.items() if k != "revision"}
        base = base_model or named_base(published)
        if base is None:
            raise TwinFlowConfigError(
                f"'{name}' has a {published.class_name} without the other components of a pipeline, and names no base "
                "model. Pass the folder or Hub id of the pipeline that it was made from as base_model=."
            )
        pipeline = load_base(family, base, is_hub_id=base_model is None, **hub_options, **others)
    if transformer is None:
        dtype = component_options(options, family.component_name).get("dtype")
        repository = located(published, published.transformer, PATTERNS)
        check_component(repository.directory, family.transformer_class.stock_class(), is_trained=True)
        transformer = load_located_transformer(repository, dtype=dtype or torch.float32)
        check_weights({family.component_name: transformer}, repository.directory.parent)
    own = pipeline.scheduler.config if pipeline.scheduler is not None else {}
    scheduler = scheduler or TwinFlowScheduler.from_config(own, **SAMPLER)
    return assemble(
        family, pipeline, pipeline.components | {family.component_name: transformer, "scheduler": scheduler}
    )


def _fetch(published: PublishedFolder) -> Path:
    """Download all files of the other components, and return the folder of the published pipeline."""
    patterns = [f"{name}/*{ending}" for name in own_components(published) for ending in FILE_ENDINGS]
    return located(published, published.pipeline, (INDEX_NAME, *patterns)).directory
