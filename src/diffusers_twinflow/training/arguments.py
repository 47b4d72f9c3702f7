"""A script's arguments together with a JSON file of options, over which arguments win."""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError, check_option_name, read_json_options
from ..integrations.simpletuner.defaults import VERSION as SIMPLETUNER_VERSION
from ..integrations.simpletuner.recipes import read_recipe
from ..ranges import Number
from ..writing import write_text

FILE_NAME = "training_arguments.json"
SWITCHES = {"true": True, "false": False}
"""Texts that recipes write for a JSON boolean."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that raises its errors, without the usage of all options."""

    def error(self, message: str):
        raise TwinFlowConfigError(message)


def parse_with_config(parser: argparse.ArgumentParser, input_args: list[str] | None = None) -> argparse.Namespace:
    """Parse arguments. Options of the JSON file that `--config` names replace defaults; arguments override both.

    Raises:
        TwinFlowConfigError: if the file cannot be read, holds an option that the parser lacks or a value of the wrong
            type, or if a number is outside the range that its option declares (`Number`).
    """
    args = parser.parse_args(input_args)
    if args.config:
        args = parser.parse_args(input_args, namespace=read_config(parser, args.config))
    check_ranges(parser, args)
    return args


def read_config(parser: argparse.ArgumentParser, path: str) -> argparse.Namespace:
    """The options that a JSON file gives, checked against the parser's types and choices."""
    actions = {
        string.lstrip("-"): action
        for action in parser._actions
        for string in action.option_strings
        if action.dest != "help" and not string.startswith("--no-")
    }
    recipe = read_recipe(read_json_options(path), list(actions), directory=Path(path).parent)
    for name, reason in recipe.ignored.items():
        warnings.warn(f"option '{name}' of {path} has no effect: {reason}", stacklevel=3)
    if recipe.defaults:
        defaults = ", ".join(f"{name}={value}" for name, value in sorted(recipe.defaults.items()))
        warnings.warn(
            f"{path} is a recipe for SimpleTuner. What it leaves out has the defaults of SimpleTuner "
            f"{SIMPLETUNER_VERSION}: {defaults}. An argument or an option in the recipe changes them.",
            stacklevel=3,
        )
    values = {}
    for name, value in recipe.options.items():
        check_option_name(name, list(actions))
        if value is None or value == []:
            continue
        try:
            values[actions[name].dest] = convert(actions[name], value)
        except ValueError as error:
            raise TwinFlowConfigError(
                f"option '{name}' of {path} is {json.dumps(value)}: it must be {error}."
            ) from None
    return argparse.Namespace(**values)


def convert(action: argparse.Action, value: Any) -> Any:
    """The value of an option as the command line would give it.

    Raises:
        ValueError: saying what the JSON value must be.
    """
    if isinstance(action, argparse.BooleanOptionalAction):
        if isinstance(value, str) and value.lower() in SWITCHES:
            value = SWITCHES[value.lower()]
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if action.nargs in ("+", "*"):
        return [convert_one(action, part) for part in (value if isinstance(value, list) else [value])]
    if action.nargs == "?" and isinstance(value, bool):
        return action.const if value else action.default
    return convert_one(action, value)


def convert_one(action: argparse.Action, value: Any) -> Any:
    """One value of an option; a whole number may be written with a fraction of zero."""
    kind = action.type.kind if isinstance(action.type, Number) else action.type
    expected = {int: "a whole number", float: "a number"}.get(kind, "a text")
    if isinstance(value, (bool, list, dict)) or (kind is int and isinstance(value, float) and not value.is_integer()):
        raise ValueError(expected)
    try:
        converted = (kind or str)(value) if kind in (int, float, None) else kind(str(value))
    except (ValueError, OverflowError):
        raise ValueError(expected) from None
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"one of {', '.join(map(str, action.choices))}")
    return converted


def check_ranges(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """
    Raises:
        TwinFlowConfigError: if a number is outside the range that its option declares.
    """
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if value is None or not isinstance(action.type, Number):
            continue
        for number in value if isinstance(value, list) else [value]:
            if number not in action.type.allowed:
                raise TwinFlowConfigError(f"--{action.dest}={number} is not valid: it must be {action.type.allowed}.")


def as_arguments(name: str, value: Any) -> list[str]:
    """A JSON option as command line arguments."""
    if value is None or value == []:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(_as_text, value)]
    return [f"--{name}={_as_text(value)}"]


def _as_text(value: Any) -> str:
    """A value as an argument; a whole number that came as a float is one, for options that are whole numbers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def saved_values(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a run that are set, without tokens and without what says how this one process was started."""
    left_out = {"config", "resume_from_checkpoint", "local_rank"} | {n for n in vars(args) if n.endswith("token")}
    return {name: value for name, value in vars(args).items() if name not in left_out and value is not None}


def save_arguments(args: argparse.Namespace, directory: str | Path) -> Path:
    """Write the arguments of a run as a file that `--config` reads; tokens and unset options are left out."""
    path = Path(directory) / FILE_NAME
    write_text(path, json.dumps(saved_values(args), indent=2, sort_keys=True) + "\n")
    return path
