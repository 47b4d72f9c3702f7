"""Read recipes: the options of a run and of its method, as a JSON file or as plain values."""

import json
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, NamedTuple

from ..configuration import FlowMatchingConfig, TwinFlowConfig, TwinFlowConfigError
from ..integrations.simpletuner.defaults import VERSION as SIMPLETUNER_VERSION
from ..integrations.simpletuner.recipes import read_recipe
from ..methods import FlowMatching, Method, TwinFlow
from ..options import (
    check_option_name,
    default_of,
    from_json,
    options_of,
    read_json_options,
    shown_value,
    unused_note,
    unused_options,
)
from ..recommended import length_of, recommended_training, recommended_twinflow
from .arguments import DATA_FREE, RecipeOptions, TrainingArguments

CLASSES = (TrainingArguments, FlowMatchingConfig, TwinFlowConfig)
NAMED_CLASSES = (RecipeOptions, *CLASSES)
"""The classes whose options can be given on the command line or in a file."""

logger = logging.getLogger(__name__)


class RunOptions(NamedTuple):
    """The options of a run, grouped into the arguments of the run and the configurations of its method."""

    arguments: TrainingArguments
    flow_matching: FlowMatchingConfig
    twinflow: TwinFlowConfig

    def method(self) -> Method:
        """Build the method: `TwinFlow` if `twinflow_enabled` is true, else `FlowMatching`."""
        if not self.twinflow.twinflow_enabled:
            return FlowMatching(self.flow_matching, self.twinflow)
        if note := unused_note(options_of(FlowMatchingConfig), vars(self.flow_matching) | vars(self.twinflow)):
            warnings.warn(note, stacklevel=2)
        use_ema = self.arguments.use_ema is not False
        self.twinflow.check_teacher(use_ema)
        return TwinFlow(self.twinflow, teacher=None if use_ema else "student")


def option_names() -> dict[str, Field]:
    """Return the options that a recipe can have, by name and by each alias."""
    return {
        name: declared
        for declared in options_of(*NAMED_CLASSES)
        for name in (declared.name, *declared.metadata["aliases"])
    }


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunOptions:
    """Read the options of a run from a JSON file: a recipe of this package, or one for SimpleTuner.

    Args:
        path: the JSON file.
        overrides: options that override the file. Defaults to none.

    Returns:
        The options, grouped by their class.

    Raises:
        TwinFlowConfigError: if the file cannot be read, has an unknown option or a value of the wrong type, or if a
            value is outside its range.

    Examples:
        >>> arguments, *_ = options = load_recipe("recipe.json", {"output_dir": "out"})
        >>> Trainer(None, arguments, options.method()).train()
    """
    return build_options(read_options(path, overrides) | dict(overrides or {}))


def build_options(values: Mapping[str, Any]) -> RunOptions:
    """Convert plain values by name to typed options. If `recipe` is given, the other values override its options.

    Raises:
        TwinFlowConfigError: if a name is unknown or a value is not valid.
    """
    names = {cls: {declared.name for declared in options_of(cls)} for cls in NAMED_CLASSES}
    all_names = [name for known in names.values() for name in known]
    for name in values:
        check_option_name(name, all_names)

    def typed(values: Mapping[str, Any]) -> list[Any]:
        return [cls(**{k: v for k, v in values.items() if k in known}) for cls, known in names.items()]

    recipe, *options = typed(values)
    if recipe.recipe is not None:
        from_recipe = {
            name: value for name, value in recipe_options(recipe.recipe, values).items() if name not in values
        }
        if int(os.environ.get("RANK", 0)) == 0:
            listed = ", ".join(f"{name}={shown_value(value)}" for name, value in from_recipe.items())
            logger.info(f"recipe '{recipe.recipe}' sets {listed}")
        _, *options = typed({**values, **from_recipe})
    return RunOptions(*options)


def recipe_options(recipe: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a recipe (one of `RECIPES`) sets for a run with the given options."""
    train_type, steps = given.get("train_type") or "lora", given.get("max_train_steps")
    has_epochs = steps is None and given.get("num_train_epochs") is not None
    choices: dict[str, Any] = {
        "train_type": train_type,
        "length": length_of(steps),
        "media": "video" if (given.get("num_frames") or 1) > 1 else "image",
        "diffusion": bool(given.get("diff2flow_enabled")),
        "data_free": recipe == DATA_FREE,
    }
    training = recommended_training(
        **choices,
        train_batch_size=given.get("train_batch_size"),
        num_processes=int(os.environ.get("WORLD_SIZE", 1)),
    )
    if has_epochs:
        del training["max_train_steps"]
    return training | recommended_twinflow(**choices)


def read_options(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the options in a JSON file by name. Warns about options that have no effect.

    Defaults of SimpleTuner that nothing uses are left out, because no one set them.

    Args:
        path: the JSON file.
        overrides: options that override the file, which may use a default. They are not in the result.

    Raises:
        TwinFlowConfigError: as in `load_recipe`.
    """
    known = option_names()
    recipe = read_recipe(read_json_options(path), list(known), directory=Path(path).parent)
    for name, reason in recipe.ignored.items():
        warnings.warn(f"option '{name}' of {path} has no effect: {reason}", stacklevel=3)
    if recipe.defaults:
        defaults = ", ".join(f"{name}={value}" for name, value in sorted(recipe.defaults.items()))
        warnings.warn(
            f"{path} is a recipe for SimpleTuner. Options that it leaves out have the defaults of SimpleTuner "
            f"{SIMPLETUNER_VERSION}: {defaults}. To change them, set them as an argument or in the recipe.",
            stacklevel=3,
        )
    values: dict[str, Any] = {}
    for name, value in recipe.options.items():
        check_option_name(name, list(known))
        if value is None or value == []:
            continue
        try:
            values[known[name].name] = from_json(known[name], value)
        except ValueError as error:
            raise TwinFlowConfigError(
                f"option '{name}' of {path} is {json.dumps(value)}: it must be {error}."
            ) from None
    declared = list(options_of(*CLASSES))
    every = {each.name: default_of(each) for each in declared} | values | dict(overrides or {})
    left_out = unused_options([each for each in declared if each.name in recipe.defaults], every)
    return {name: value for name, value in values.items() if name not in left_out}
