"""A script's arguments together with a JSON file of options, over which arguments win."""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from ..configuration import check_option_name, read_json_options
from ..hub.recipes import read_recipe
from ..hub.simpletuner import VERSION as SIMPLETUNER_VERSION

FILE_NAME = "training_arguments.json"


def parse_with_config(parser: argparse.ArgumentParser, input_args: list[str] | None = None) -> argparse.Namespace:
    """Parse arguments; where `--config` names a file, its options hold unless an argument says otherwise.

    Raises:
        TwinFlowConfigError: where the file cannot be read or holds an option that the parser has not.
    """
    args = parser.parse_args(input_args)
    if not args.config:
        return args
    known = [string.lstrip("-") for action in parser._actions for string in action.option_strings]
    recipe = read_recipe(read_json_options(args.config), known, directory=Path(args.config).parent)
    for name, reason in recipe.ignored.items():
        warnings.warn(f"option '{name}' of {args.config} has no effect: {reason}", stacklevel=2)
    if recipe.defaults:
        values = ", ".join(f"{name}={value}" for name, value in sorted(recipe.defaults.items()))
        warnings.warn(
            f"{args.config} is a recipe for SimpleTuner. What it leaves out has the defaults of SimpleTuner "
            f"{SIMPLETUNER_VERSION}: {values}. An argument or an option in the recipe changes them.",
            stacklevel=2,
        )
    from_file = []
    for name, value in recipe.options.items():
        check_option_name(name, known)
        from_file += as_arguments(name, value)
    return parser.parse_args(input_args, namespace=parser.parse_args(from_file))


def as_arguments(name: str, value: Any) -> list[str]:
    """A JSON option as command line arguments, so that types and choices are checked in one place."""
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


def save_arguments(args: argparse.Namespace, directory: str | Path) -> Path:
    """Write the arguments of a run as a file that `--config` reads; tokens and unset options are left out."""
    left_out = {"config"} | {name for name in vars(args) if name.endswith("token")}
    values = {name: value for name, value in vars(args).items() if name not in left_out and value is not None}
    path = Path(directory) / FILE_NAME
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
