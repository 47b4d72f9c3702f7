"""Check that a repository on disk is complete, and that others can load it from the Hub."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES
from .base_loras import parse_base_loras
from .component_check import WEIGHTS
from .files import (
    CARD_NAME,
    CONFIG_NAME,
    LORA_NAME,
    PART_NAMES,
    SAMPLES_FOLDER,
    SCHEDULER_NAME,
    LocatedRepository,
    check_finite,
    index_name,
    locate_repository,
    read_header,
)
from .model_check import FILE_PATTERNS, check_model_files, read_index
from .repository import LORA, TwinFlowRepositoryConfig
from .sample_images import sample_names

NEEDED = (CONFIG_NAME, LORA_NAME, SCHEDULER_NAME)
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def check_pushable(
    directory: str | Path, *, base_model: str | None = None
) -> tuple[TwinFlowRepositoryConfig, list[str]]:
    """Check that a repository is complete and can be loaded by others.

    Returns:
        The configuration and the names of the files, as they are pushed to the Hub.

    Raises:
        TwinFlowConfigError: if a file is missing or damaged, or others could not load the repository.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise TwinFlowConfigError(f"'{directory}' is not a directory: pass the output directory of the training.")
    repository = locate_repository(directory)
    config = TwinFlowRepositoryConfig.load_located(repository)
    files = _lora_files(repository, config) if config.train_type == LORA else _model_files(repository, config)
    if base_model is not None:
        config = replace(config, base_model=base_model)
    _check_base(directory, config)
    _check_base_loras(directory, config)
    config = _without_local_paths(config)
    files += [CARD_NAME] if repository.find(CARD_NAME) else []
    for name in (CONFIG_NAME, CARD_NAME):
        if name in files and TOKEN.search(_read_text(directory / name)):
            raise TwinFlowConfigError(f"{name} contains what looks like a Hub token. Remove it before you push.")
    if CARD_NAME in files:
        _check_card(directory / CARD_NAME)
    return config, [*files, *(f"{SAMPLES_FOLDER}/{name}" for name in sample_names(directory))]


def _read_text(path: Path) -> str:
    """Read a text file in UTF-8, the encoding that the Hub needs.

    Raises:
        TwinFlowConfigError: if it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TwinFlowConfigError(f"'{path.name}' is not text in UTF-8 ({error}): save it as UTF-8.") from error


def _lora_files(repository: LocatedRepository, config: TwinFlowRepositoryConfig) -> list[str]:
    missing = [name for name in NEEDED if repository.find(name) is None]
    if missing:
        raise TwinFlowConfigError(
            f"'{repository.name}' lacks {', '.join(missing)}: save it again with save_twinflow_lora."
        )
    weights = []
    for part, denoiser in product(PART_NAMES, config.trained_denoisers):
        name = config.file_of(denoiser, part)
        if repository.find(name):
            weights.append(name)
        elif part == LORA_NAME or config.needs_time_conditioning:
            raise TwinFlowConfigError(f"'{repository.name}' lacks {name}: save it again with save_twinflow_lora.")
    for name in weights:
        read_header(repository.directory / name)
        check_finite(repository.directory / name)
    return [*NEEDED, *(name for name in weights if name not in NEEDED)]


def _model_files(repository: LocatedRepository, config: TwinFlowRepositoryConfig) -> list[str]:
    family, directory = FAMILIES[config.family], repository.directory
    components = read_index(repository, family)
    check_model_files(directory, family, components)
    if repository.find(SCHEDULER_NAME) is None:
        raise TwinFlowConfigError(
            f"'{repository.name}' lacks {SCHEDULER_NAME}: save it again with save_twinflow_model."
        )
    for path in (path for name in family.denoiser_names for path in (directory / name).glob(WEIGHTS)):
        check_finite(path)
    found = {path for name in components for pattern in FILE_PATTERNS for path in (directory / name).glob(pattern)}
    return [CONFIG_NAME, index_name(directory), *sorted(path.relative_to(directory).as_posix() for path in found)]


def _without_local_paths(config: TwinFlowRepositoryConfig) -> TwinFlowRepositoryConfig:
    """Remove training arguments that are paths on this machine from the configuration."""
    arguments = config.trained.get("arguments")
    if not isinstance(arguments, dict):
        return config
    kept = {name: value for name, value in arguments.items() if not (isinstance(value, str) and _is_place(value))}
    return replace(config, trained=config.trained | {"arguments": kept})


def _is_place(text: str) -> bool:
    return Path(text).is_absolute() or ("/" in text and Path(text).exists())


def _check_base(directory: Path, config: TwinFlowRepositoryConfig) -> None:
    base = config.base_model
    try:
        validate_repo_id(base)
        is_hub_id = not (directory / base).exists() and not Path(base).is_dir()
    except HFValidationError:
        is_hub_id = False
    if not is_hub_id:
        raise TwinFlowConfigError(
            f"{CONFIG_NAME} names the base model '{base}', which exists only on this machine: pass its Hub id as "
            "base_model=."
        )


def _check_base_loras(directory: Path, config: TwinFlowRepositoryConfig) -> None:
    if config.train_type != LORA:
        return
    for lora in parse_base_loras(config.base_loras):
        if lora.hub_id is None or (directory / lora.name).exists():
            raise TwinFlowConfigError(
                f"{CONFIG_NAME} names the LoRA '{lora}' in the base, which exists only on this machine: push that LoRA, "
                f"and write its Hub id into base_loras of {CONFIG_NAME}."
            )


def _check_card(path: Path) -> None:
    try:
        ModelCard(_read_text(path))
    except (ValueError, yaml.YAMLError) as error:
        raise TwinFlowConfigError(f"{CARD_NAME} has metadata that is not valid ({error}). Correct it.") from error
