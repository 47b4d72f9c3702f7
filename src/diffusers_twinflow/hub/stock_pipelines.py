"""Load and build the stock pipelines of families."""

import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..families import Family

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def load_stock_pipeline(family: Family, name_or_path: str | Path, **options: Any) -> DiffusionPipeline:
    """Load a family's stock pipeline. Components that it was saved without stay `None`.

    Args:
        family: the family of the base.
        name_or_path: local directory or Hub repository.
        options: arguments of `DiffusionPipeline.from_pretrained`. `dtype` defaults to float32 for every component,
            while diffusers leaves text encoders in the dtype of their files. `torch_dtype` is the old name of `dtype`.
    """
    hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
    index: Any = family.pipeline_class.load_config(name_or_path, **hub_options)
    absent = {name: None for name, component in index.items() if component == [None, None]}
    options.setdefault("dtype", options.pop("torch_dtype", torch.float32))
    options = absent | options
    return family.pipeline_class.from_pretrained(name_or_path, **options)


def assemble(
    family: Family, pipeline: DiffusionPipeline, components: dict[str, Any] | None = None
) -> DiffusionPipeline:
    """Create a stock pipeline with the options of `pipeline`, such as `expand_timesteps`.

    Args:
        family: the family of the pipeline.
        pipeline: the pipeline whose options are copied.
        components: all components by name; defaults to the components of `pipeline`.
    """
    options = {
        name: pipeline.config[name]
        for name in inspect.signature(family.pipeline_class.__init__).parameters
        if name in pipeline.config and name not in pipeline.components
    }
    return family.pipeline_class(**(components or pipeline.components), **options)
