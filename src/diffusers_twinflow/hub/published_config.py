"""Derive the contents of `twinflow_config.json` for transformers of the TwinFlow authors or of SimpleTuner."""

from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from ..configuration import TwinFlowConfigError
from ..families import Family
from ..families.registry import families_of_denoiser, family_of_pipeline_class
from .files import CARD_NAME, INDEX_NAME, MAX_JSON_BYTES, read_json
from .published_folders import PublishedFolder

RECOMMENDED_STEPS = 4
"""The authors recommend 2 to 4."""


def family_of_published(published: PublishedFolder) -> Family:
    """Return the model family of a published transformer."""
    class_name = _index(published).get("_class_name")
    named = family_of_pipeline_class(class_name) if isinstance(class_name, str) else None
    families = [named] if named else families_of_denoiser(published.class_name)
    if not families:
        raise TwinFlowConfigError(
            f"'{published.repository.name}' has a {published.class_name}, for which no model family has a pipeline. Load "
            "it with load_published_transformer, pass it to its stock pipeline as transformer=, and set the pipeline's "
            "scheduler to a TwinFlowScheduler."
        )
    return families[0]


def _index(published: PublishedFolder) -> dict[str, Any]:
    path = published.repository.find(str(published.pipeline / INDEX_NAME))
    return read_json(path) if path else {}


def own_components(published: PublishedFolder) -> list[str]:
    """Return the names of the other components of a published pipeline, or an empty list if one has no files."""
    names = [
        name
        for name, entry in _index(published).items()
        if isinstance(entry, list) and entry != [None, None] and published.pipeline / name != published.transformer
    ]
    root = published.repository.directory / published.pipeline
    return names if all(any((root / name).glob("*config.json")) for name in names) else []


def named_base(published: PublishedFolder) -> str | None:
    """Return the Hub id of the base: the one in the model card, or the family's usual base if it names none or many."""
    for folder in dict.fromkeys((published.pipeline, PurePosixPath())):
        path = published.repository.find(str(folder / CARD_NAME))
        if path is not None and path.stat().st_size <= MAX_JSON_BYTES and (base := _base_of_card(path)):
            return base
    return family_of_published(published).usual_base


def _base_of_card(path: Path) -> str | None:
    try:
        values = metadata_load(path) or {}
    except (ValueError, YAMLError):  # people write cards by hand, so the metadata can be invalid
        return None
    base = values.get("base_model")
    bases = base if isinstance(base, list) else [base]
    if len(bases) != 1 or not isinstance(bases[0], str):
        return None
    try:
        validate_repo_id(bases[0])
    except HFValidationError:
        return None
    return bases[0]
