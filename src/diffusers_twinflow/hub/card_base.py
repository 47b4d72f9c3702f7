"""What a model card says of the base: its license, and the components that it was saved without."""

from pathlib import Path
from typing import Any

import yaml
from diffusers.utils import logging
from huggingface_hub import ModelCard, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..families import FAMILIES
from .files import CARD_NAME, INDEX_NAME, MAX_JSON_BYTES, read_json
from .repository import LORA, TwinFlowRepositoryConfig

logger = logging.get_logger(__name__)

LICENSE_FIELDS = ("license", "license_name", "license_link")


def base_license(
    config: TwinFlowRepositoryConfig,
    directory: str | Path,
    *,
    base_model: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> dict[str, str]:
    """Read the license fields from the base's model card.

    The card is the README.md of a local base, or the base's card on the Hub. If the Hub cannot be reached, the cache is
    used. The result is empty if there is no card or its metadata cannot be read.
    """
    path = _base_file(CARD_NAME, config, directory, base_model=base_model, cache_dir=cache_dir, token=token)
    data = {} if path is None else _read_metadata(path)
    return {name: data[name] for name in LICENSE_FIELDS if isinstance(data.get(name), str)}


def absent_components(
    config: TwinFlowRepositoryConfig,
    directory: str | Path,
    *,
    base_model: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> list[str]:
    """Return the components that stock diffusers must be told to leave out, because the base was saved without them.

    They are read from the index of the base, or from that of a whole model. The result is empty if there is no index.
    """
    if config.train_type == LORA:
        path = _base_file(INDEX_NAME, config, directory, base_model=base_model, cache_dir=cache_dir, token=token)
    else:
        path = Path(directory, INDEX_NAME)
    if path is None or not path.is_file():
        return []
    optional = FAMILIES[config.family].pipeline_class._optional_components
    return [name for name, entry in read_json(path).items() if entry == [None, None] and name not in optional]


def _base_file(
    file_name: str,
    config: TwinFlowRepositoryConfig,
    directory: str | Path,
    *,
    base_model: str | None,
    cache_dir: str | Path | None,
    token: str | None,
) -> Path | None:
    """Find a file of a local base, or of the base on the Hub or in its cache; `None` if there is none."""
    local = Path(directory, config.base_model)
    paths = [local / file_name]
    for name in (base_model, None if local.is_dir() else config.base_model):
        if name and hub_id_of(name):
            revision = config.base_model_revision if name == config.base_model else None
            paths += _pulled(name, file_name, revision=revision, cache_dir=cache_dir, token=token)
    return next((path for path in paths if path.is_file()), None)


def _read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of the base's card. Warns and returns an empty dictionary if it cannot be read."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning(f"The model card has no license, because the base's card '{path}' cannot be read ({reason}).")
        return {}


def _pulled(
    name: str, file_name: str, *, revision: str | None, cache_dir: str | Path | None, token: str | None
) -> list[Path]:
    try:
        return [Path(hf_hub_download(name, file_name, revision=revision, cache_dir=cache_dir, token=token))]
    except Exception as error:  # network errors have no common class, and the cache may have the file
        logger.debug(f"{file_name} of '{name}' was not downloaded ({type(error).__name__}).")
    cached = try_to_load_from_cache(name, file_name, cache_dir=cache_dir, revision=revision)
    return [Path(cached)] if isinstance(cached, str) else []


def hub_id_of(name: str) -> str | None:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and ".." not in name else None
