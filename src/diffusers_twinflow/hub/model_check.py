"""Whether the files of a whole model are what they should be, decided before anything is built of them."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError
from ..families import Family
from ..schedulers import TwinFlowScheduler
from .files import CONDITIONING_NAME, INDEX_NAME, LocatedRepository, TensorHeader, read_header, read_json

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
LIBRARIES = ("diffusers", "transformers")
FILE_PATTERNS = ("*.json", WEIGHTS, "*.txt", "*.model", "*.jinja")
LARGEST_NUMBER, LARGEST_SAMPLE = 2**24, 512


def read_index(repository: LocatedRepository, family: Family) -> dict[str, tuple[str, str]]:
    """Library and class by component, of a checked `model_index.json`; components saved as `None` are left out.

    Raises:
        TwinFlowConfigError: where a class is none of the family's pipeline, or of another library than diffusers and
            transformers.
    """
    path = repository.find(INDEX_NAME)
    if path is None:
        raise TwinFlowConfigError(f"'{repository.name}' has no {INDEX_NAME}: save it again with save_twinflow_model.")
    values = read_json(path)

    def refuse(name: str, allowed: str):
        raise TwinFlowConfigError(
            f"{INDEX_NAME} of '{repository.name}' has {name}={str(values.get(name))[:80]!r}: it must be {allowed}."
        )

    if values.get("_class_name") != family.pipeline_class.__name__:
        refuse("_class_name", family.pipeline_class.__name__)
    stock = family.transformer_class.stock_class().__name__
    if values.get(family.component_name) not in (["diffusers", stock], entry_of(family.transformer_class)):
        refuse(family.component_name, f"['diffusers', '{stock}']")
    taken = inspect.signature(family.pipeline_class.__init__).parameters
    components = {}
    for name, entry in values.items():
        if name.startswith("_") or entry is None or entry == [None, None] or isinstance(entry, (bool, int, float)):
            continue
        if name not in taken:
            refuse(name, f"left out, for a {family.pipeline_class.__name__} has no such component")
        if entry not in (entry_of(family.transformer_class), [*OUR_SCHEDULER]) and not _is_component(entry):
            refuse(name, f"a class of {' or '.join(LIBRARIES)}")
        components[name] = tuple(entry)
    return components


def entry_of(cls: type) -> list[str]:
    """What `model_index.json` says of a class that is not one of diffusers' own."""
    return [cls.__module__, cls.__name__]


OUR_SCHEDULER = tuple(entry_of(TwinFlowScheduler))


def _is_component(entry: Any) -> bool:
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        return False
    found = getattr(importlib.import_module(entry[0]), entry[1], None) if entry[0] in LIBRARIES else None
    return isinstance(found, type) and hasattr(found, "from_pretrained")


def check_model_files(directory: Path, family: Family, components: dict[str, tuple[str, str]]) -> None:
    """Refuse weights whose headers lie, indices that leave their folder, and configurations that ask for too much.

    Args:
        directory: holds a folder for each of `components`, which `read_index` gave.

    Raises:
        TwinFlowConfigError: naming the file.
    """
    for name in components:
        folder = directory / name
        shards = sorted(folder.glob(WEIGHTS))
        headers = {shard.name: read_header(shard, float_only=name == family.component_name) for shard in shards}
        headers.pop(CONDITIONING_NAME, None)
        for index in folder.glob("*.index.json"):
            _check_weight_index(index, shards)
        if headers and (folder / CONFIG).is_file():
            _check_sizes(f"{name}/{CONFIG}", read_json(folder / CONFIG, name=f"{name}/{CONFIG}"), [*headers.values()])
    component = family.component_name
    if not [path for path in (directory / component).glob(WEIGHTS) if path.name != CONDITIONING_NAME]:
        raise TwinFlowConfigError(f"'{component}' has no safetensors weights: pickle files are not loaded.")
    config_path = directory / component / CONFIG
    if not config_path.is_file():
        raise TwinFlowConfigError(f"there is no {component}/{CONFIG}: save the model again with save_twinflow_model.")
    _check_component_config(f"{component}/{CONFIG}", read_json(config_path), family)


def _check_component_config(name: str, values: dict[str, Any], family: Family) -> None:
    allowed = (family.transformer_class.__name__, family.transformer_class.stock_class().__name__)
    if values.get("_class_name") not in allowed:
        raise TwinFlowConfigError(
            f"{name} has _class_name={str(values.get('_class_name'))[:80]!r}: it must be {' or '.join(allowed)}."
        )
    if not isinstance(values.get("twinflow_enabled", False), bool):
        raise TwinFlowConfigError(f"{name} has a twinflow_enabled that is neither true nor false.")


def _check_weight_index(path: Path, shards: list[Path]) -> None:
    values = read_json(path).get("weight_map")
    names = {shard.name for shard in shards}
    if not isinstance(values, dict) or not all(isinstance(file, str) and file in names for file in values.values()):
        raise TwinFlowConfigError(f"'{path.name}' names files that are not beside it.")


def _check_sizes(name: str, values: dict[str, Any], headers: list[TensorHeader]) -> None:
    """Bound what building a model from a configuration costs by the weights that are really there."""
    tensors = sum(len(header.shapes) for header in headers)
    lengths = {length for header in headers for shape in header.shapes.values() for length in shape}
    for key, number in _numbers(values):
        bound = LARGEST_NUMBER
        if "layers" in key or "blocks" in key or "depth" in key:
            bound = tensors
        elif key.startswith("sample_"):
            bound = LARGEST_SAMPLE
        if abs(number) > bound or (key == "pos_embed_max_size" and not {number, number**2} & lengths):
            raise TwinFlowConfigError(f"{name} has {key}={str(number)[:40]}, which its weights are too small for.")


def _numbers(values: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number of a JSON value, with the nearest key above it."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _numbers(value, name)
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, key)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield key, values
