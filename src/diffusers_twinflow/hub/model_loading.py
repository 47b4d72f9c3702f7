"""Load a whole distilled pipeline from a repository after checking its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..families import Family
from ..models.modeling_twinflow import TARGET_AND_SIGN
from .component_check import WEIGHTS
from .files import (
    CONDITIONING_NAME,
    CONFIG_NAME,
    INDEX_NAME,
    MODULAR_INDEX_NAME,
    LocatedRepository,
    check_finite,
    locate_repository,
)
from .loading import read_scheduler
from .model_check import FILE_PATTERNS, OUR_SCHEDULER, check_model_files, read_index
from .repository import TwinFlowRepositoryConfig
from .stock_pipelines import load_stock_pipeline

MODEL_OPTIONS = ("dtype", "device_map")


def load_located_model(
    repository: LocatedRepository, config: TwinFlowRepositoryConfig, family: Family, **options: Any
) -> DiffusionPipeline:
    """Load the stock pipeline of a whole model with its time conditioning and its scheduler.

    Only safetensors weights are read. All files come from the same commit as `repository`.

    Args:
        options: arguments of `DiffusionPipeline.from_pretrained`, without the Hub options.

    Raises:
        TwinFlowConfigError: if the repository is incomplete or damaged, or contains another model than it says.
    """
    components = read_index(repository, family)
    directory = _fetch(repository, components).directory
    check_model_files(directory, family, components)
    replaced: dict[str, Any] = {}
    if repository.find(CONFIG_NAME) is not None or components.get("scheduler") == OUR_SCHEDULER:
        replaced["scheduler"] = read_scheduler(repository, config)
    options = options | {"use_safetensors": True}
    try:
        for name in filter(components.__contains__, family.denoiser_names):
            replaced[name] = _load_component(directory, family, name, component_options(options, name))
        pipeline = load_stock_pipeline(family, str(directory), **replaced, **options)
    except (TwinFlowConfigError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # files from others can raise any error
        raise TwinFlowConfigError(
            f"'{repository.name}' cannot be loaded ({type(error).__name__}: {str(error)[:400]}). Save the model again."
        ) from error
    check_weights(pipeline.components, directory)
    return pipeline


def _fetch(repository: LocatedRepository, components: dict[str, tuple[str, str]]) -> LocatedRepository:
    """Download all files of the components at the same commit."""
    if repository.is_local:
        return repository
    patterns = [
        INDEX_NAME,
        MODULAR_INDEX_NAME,
        *(f"{name}/{pattern}" for name in components for pattern in FILE_PATTERNS),
    ]
    return locate_repository(
        repository.name, subfolder=repository.subfolder, patterns=patterns, **repository.hub_options
    )


def component_options(options: dict[str, Any], component_name: str) -> dict[str, Any]:
    """Return the pipeline options that apply to one component. A dtype may be a mapping by component."""
    passed = {name: options[name] for name in MODEL_OPTIONS if name in options}
    return {
        name: value.get(component_name, value.get("default", torch.float32)) if isinstance(value, dict) else value
        for name, value in passed.items()
    }


def _load_component(directory: Path, family: Family, name: str, options: dict[str, Any]) -> torch.nn.Module:
    loaded: Any = family.transformer_class.from_pretrained(
        directory / name, use_safetensors=True, output_loading_info=True, **options
    )
    model, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise TwinFlowConfigError(
                f"the weights of '{name}' do not fit its configuration: {kind.replace('_', ' ')} such "
                f"as '{sorted(map(str, info[kind]))[0]}'. Save the model again."
            )
    if not model.twinflow_enabled and (directory / name / CONDITIONING_NAME).exists():
        raise TwinFlowConfigError(
            f"'{name}' has a {CONDITIONING_NAME}, but its config.json does not say which kind of time "
            "conditioning it is. Save the model again with save_twinflow_model."
        )
    trained_here = model.twinflow_enabled and model.twinflow_conditioning == TARGET_AND_SIGN
    if trained_here and model.time_conditioning.time_sign_embed.weight[0].any():
        raise TwinFlowConfigError(f"'{name}' has an embedding of the sign +1 that is not zero. Save the model again.")
    return model


def check_weights(components: Mapping[str, Any], directory: Path) -> None:
    """Check that all weights are finite. Weights that stay on disk are checked in their files.

    Args:
        components: components by name.
        directory: directory with a folder for each component.

    Raises:
        TwinFlowConfigError: if a value is not finite; the message names the component.
    """
    for name, module in components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        tensors = list(module.state_dict().items())
        if any(tensor.is_meta for _, tensor in tensors):
            for path in (directory / name).glob(WEIGHTS):
                check_finite(path)
            continue
        for key, tensor in tensors:
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise TwinFlowConfigError(
                    f"'{name}' has values that are not finite (for example in '{key}'), so its training diverged. Use "
                    "another checkpoint."
                )
