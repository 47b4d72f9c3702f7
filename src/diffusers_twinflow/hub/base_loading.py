"""Load the base model of a LoRA or of a training run after checking its files."""

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES, Family
from .component_check import check_component
from .files import LocatedRepository, download_error
from .model_check import read_base_index
from .repository import TwinFlowRepositoryConfig
from .stock_pipelines import HUB_OPTIONS, load_stock_pipeline


def load_base(family: Family, name_or_path: str, *, is_hub_id: bool = False, **options: Any) -> DiffusionPipeline:
    """Load the stock pipeline of a base model and check its files first.

    Args:
        family: model family of the base.
        name_or_path: local directory or Hub repository.
        is_hub_id: treat `name_or_path` only as a Hub id, even if a local directory has this name. Use it if the name
            comes from a repository that you do not trust.
        options: arguments of `DiffusionPipeline.from_pretrained`. Components that you pass here are not checked.
            Pickled weights are not checked either; `use_safetensors=True` refuses them.

    Returns:
        The stock pipeline.

    Raises:
        TwinFlowConfigError: if the base cannot be downloaded, its files do not fit together, or it cannot be built.
    """
    if is_hub_id or not Path(name_or_path).is_dir():
        directory = _download(family, name_or_path, options)
        options = {name: value for name, value in options.items() if name not in HUB_OPTIONS}
    else:
        directory = Path(name_or_path)
    check_base_files(family, directory, name_or_path, options)
    try:
        return load_stock_pipeline(family, str(directory), **options)
    except (TwinFlowConfigError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # files from others can raise any error
        raise TwinFlowConfigError(
            f"the base model '{name_or_path}' cannot be loaded ({type(error).__name__}: {str(error)[:400]}). If it has "
            "moved, pass its new path or Hub id as base_model=."
        ) from error


def load_base_of(
    config: TwinFlowRepositoryConfig, repository: LocatedRepository, base_model: str | None = None, **options: Any
) -> DiffusionPipeline:
    """Load the base that a TwinFlow repository was trained from, at the revision that the repository names.

    Args:
        config: configuration of the repository.
        base_model: local directory or Hub repository of the base. Defaults to the base that the repository names.
        options: as in `load_base`.

    Raises:
        TwinFlowConfigError: if the base cannot be found or loaded.
    """
    family = FAMILIES[config.family]
    if base_model is not None:
        return load_base(family, base_model, **(family.load_options(config.trained_denoisers) | options))
    is_local = repository.is_local and (repository.directory / config.base_model).is_dir()
    options = {"revision": config.base_model_revision} | family.load_options(config.trained_denoisers) | options
    return load_base(family, config.locate_base(repository), is_hub_id=not is_local, **options)


def check_base_files(family: Family, directory: Path, name: str, options: dict[str, Any]) -> None:
    """Check that each component of a base model fits its files. Components in `options` are not checked.

    Raises:
        TwinFlowConfigError: if a component does not fit its files.
    """
    if options.get("use_safetensors") is False:
        return
    for component, cls in read_base_index(directory, name, family, given=options).items():
        try:
            check_component(
                directory / component,
                cls,
                variant=options.get("variant"),
                needs_safetensors=bool(options.get("use_safetensors")),
            )
        except TwinFlowConfigError as error:
            raise TwinFlowConfigError(f"the base model '{name}' cannot be loaded: {error}") from error


def _download(family: Family, name: str, options: dict[str, Any]) -> Path:
    try:
        return Path(family.pipeline_class.download(name, **options))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # network errors have no common class
        raise download_error(name, error, revision=options.get("revision")) from error
