"""Load the base of a LoRA or of a training run, after its files are checked as a stranger's."""

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..families import Family
from ..families.base import HUB_OPTIONS
from .component_check import check_component
from .files import download_error
from .model_check import read_base_index


def load_base(family: Family, name_or_path: str, *, is_hub_id: bool = False, **options: Any) -> DiffusionPipeline:
    """The stock pipeline of a base.

    Args:
        name_or_path: local directory or Hub repository.
        is_hub_id: never take the name for a directory of this machine: a stranger's repository chose it.
        options: as `DiffusionPipeline.from_pretrained` takes them. Components among them are not checked, nor are
            pickled weights, which `use_safetensors=True` refuses.

    Raises:
        TwinFlowConfigError: if it cannot be downloaded, its files do not fit each other, or it cannot be built.
    """
    if is_hub_id or not Path(name_or_path).is_dir():
        directory = _download(family, name_or_path, options)
        options = {name: value for name, value in options.items() if name not in HUB_OPTIONS}
    else:
        directory = Path(name_or_path)
    check_base_files(family, directory, name_or_path, options)
    try:
        return family.load(str(directory), **options)
    except (TwinFlowConfigError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # strangers' files raise what they like
        raise TwinFlowConfigError(
            f"the base model '{name_or_path}' cannot be loaded ({type(error).__name__}: {str(error)[:400]}): pass "
            "base_model= with where it is now."
        ) from error


def check_base_files(family: Family, directory: Path, name: str, options: dict[str, Any]) -> None:
    """
    Raises:
        TwinFlowConfigError: if a component that is not among `options` does not fit its files.
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
    except Exception as error:  # the client's network errors share no class
        raise download_error(name, error, revision=options.get("revision")) from error
