"""Check the files of a whole model before anything is built from them."""

import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from ..configuration import TwinFlowConfigError
from ..families import Family
from ..schedulers import TwinFlowScheduler
from .component_check import CONFIG, FILE_ENDINGS, LIBRARIES, check_component, component_class
from .files import (
    INDEX_NAME,
    MODULAR_INDEX_NAME,
    LocatedRepository,
    check_inside,
    index_name,
    read_json,
    read_pipeline_index,
)

FILE_PATTERNS = tuple(f"*{ending}" for ending in FILE_ENDINGS)


def read_index(repository: LocatedRepository, family: Family) -> dict[str, tuple[str, str]]:
    """Read and check the index of a stock or modular pipeline. Components saved as `None` are left out.

    Returns:
        The library and the class name of each component.

    Raises:
        TwinFlowConfigError: if a class does not belong to the family's pipeline, or comes from a library other than
            diffusers and transformers.
    """
    values = read_pipeline_index(repository.directory)
    if values is None:
        raise TwinFlowConfigError(f"'{repository.name}' has no {INDEX_NAME}: save it again with save_twinflow_model.")

    def refuse(name: str, allowed: str) -> NoReturn:
        raise TwinFlowConfigError(
            f"{INDEX_NAME} of '{repository.name}' has {name}={str(values.get(name))[:80]!r}: it must be {allowed}."
        )

    if values.get("_class_name") != family.pipeline_class.__name__:
        refuse("_class_name", family.pipeline_class.__name__)
    stock = family.transformer_class.stock_class().__name__
    for name in family.denoiser_names:
        is_absent = name != family.component_name and values.get(name) in (None, [None, None])
        if not is_absent and values.get(name) not in (["diffusers", stock], entry_of(family.transformer_class)):
            refuse(name, f"['diffusers', '{stock}']")
    taken = inspect.signature(family.pipeline_class.__init__).parameters
    components = {}
    for name, entry in values.items():
        if name.startswith("_") or entry is None or entry == [None, None] or isinstance(entry, (bool, int, float)):
            continue
        if name not in taken:
            refuse(name, f"left out, because a {family.pipeline_class.__name__} has no such component")
        if _class_of(entry, family) is None:
            refuse(name, f"a class of {' or '.join(LIBRARIES)}")
        components[name] = tuple(entry)
    return components


def entry_of(cls: type) -> list[str]:
    """Return the entry in `model_index.json` for a class that is not part of diffusers."""
    return [cls.__module__, cls.__name__]


OUR_SCHEDULER = tuple(entry_of(TwinFlowScheduler))


def check_model_files(directory: Path, family: Family, components: dict[str, tuple[str, str]]) -> None:
    """Run `check_component` on each component, and refuse quantized components and links out of the directory.

    Args:
        directory: directory with a folder for each component.
        family: model family.
        components: the result of `read_index`.

    Raises:
        TwinFlowConfigError: if a check fails; the message names the file.
    """
    for component in family.denoiser_names:
        config_path = directory / component / CONFIG
        if config_path.is_file():
            _check_component_config(f"{component}/{CONFIG}", read_json(config_path), family)
    for name, entry in components.items():
        folder = directory / name
        if family.is_modular and not folder.is_dir():
            raise TwinFlowConfigError(
                f"'{name}' is missing, and the index may name another place for it, which a whole model is not loaded "
                "from: save the model again with save_twinflow_model."
            )
        for path in folder.glob("*"):
            check_inside(path, directory)
        if (folder / CONFIG).is_file() and "quantization_config" in read_json(folder / CONFIG):
            raise TwinFlowConfigError(
                f"{name}/{CONFIG} describes quantized weights, which are not loaded from a whole model. Save the model "
                "without quantization."
            )
        is_trained = name in family.denoiser_names
        cls = family.transformer_class if is_trained else _class_of(list(entry), family)
        if cls is None:
            raise TwinFlowConfigError(
                f"{INDEX_NAME} has {name}={list(entry)}, but this class is not installed. Install the version of "
                f"{entry[0]} that has it."
            )
        check_component(folder, cls, is_trained=is_trained)


def _class_of(entry: Any, family: Family) -> type | None:
    return family.transformer_class if entry == entry_of(family.transformer_class) else component_class(entry)


def read_base_index(directory: Path, name: str, family: Family, *, given: Collection[str] = ()) -> dict[str, type]:
    """Read a base's index. Components saved as `None` are left out, and those that are elsewhere.

    Args:
        directory: directory of the base.
        name: name of the base, for error messages.
        family: model family.
        given: components that the caller passes, which are left out too.

    Returns:
        The class of each component.

    Raises:
        TwinFlowConfigError: if the file is missing, or a class is not a component of diffusers or transformers.
    """
    values = read_pipeline_index(directory)
    if values is None:
        raise TwinFlowConfigError(
            f"'{name}' has no {INDEX_NAME}, so it is not a diffusers pipeline. Pass the folder or Hub id of one."
        )
    components = {}
    is_modular = index_name(directory) == MODULAR_INDEX_NAME
    taken = inspect.signature(family.pipeline_class.__init__).parameters
    for component, entry in values.items():
        if component in given or is_modular and component not in taken:
            continue
        if isinstance(entry, list) and entry and entry != [None, None] and not component.startswith("_"):
            cls = _class_of(entry, family)
            if cls is None:
                raise TwinFlowConfigError(
                    f"{INDEX_NAME} of '{name}' has {component}={str(entry)[:80]!r}: it must be a model, scheduler, "
                    f"tokenizer or processor of {' or '.join(LIBRARIES)}. Load it yourself and pass it as {component}=."
                )
            if not is_modular or (directory / component).is_dir():
                components[component] = cls
    return components


def _check_component_config(name: str, values: dict[str, Any], family: Family) -> None:
    allowed = (family.transformer_class.__name__, family.transformer_class.stock_class().__name__)
    if values.get("_class_name") not in allowed:
        raise TwinFlowConfigError(
            f"{name} has _class_name={str(values.get('_class_name'))[:80]!r}: it must be {' or '.join(allowed)}."
        )
    if not isinstance(values.get("twinflow_enabled", False), bool):
        raise TwinFlowConfigError(
            f"{name} has twinflow_enabled={values['twinflow_enabled']!r}: it must be true or false."
        )
