"""Make command-line flags from the options of dataclasses."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field
from functools import partial
from typing import Any, NoReturn

from ..options import (
    EXPECTED,
    TwinFlowConfigError,
    check_choice,
    default_of,
    groups_of,
    options_of,
    shown_value,
    suggest_option,
    type_of,
)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that raises errors instead of printing the usage of all options.

    Flags must have their full names. A shortened flag could mean something else after a new option was added.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.register("type", int, partial(_number, int))
        self.register("type", float, partial(_number, float))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse the arguments. Unlike in `argparse`, an unknown one is an error, also for a parser of a command."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._describe(unknown))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise TwinFlowConfigError(message if message.endswith((".", "?")) else f"{message}.")

    def _describe(self, unknown: list[str]) -> str:
        flag = next((text.split("=")[0] for text in unknown if text.startswith("--")), None)
        if flag is None:
            return f"unexpected argument '{unknown[0]}'. Put a value with spaces in quotes, and see --help."
        prefix = "--no-" if flag.startswith("--no-") else "--"
        known = [text for action in self._actions for text in action.option_strings if text.startswith(prefix)]
        name, names = flag.removeprefix(prefix), [text.removeprefix(prefix) for text in known]
        return f"unknown option '{flag}'. {suggest_option(name.replace('-', '_'), names, prefix=prefix)}"


def _number(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: it must be {EXPECTED[kind]}") from None


def add_flags(parser: argparse.ArgumentParser, *classes: type, titles: Mapping[type, str] | None = None) -> None:
    """Add a flag for each option, in one group per class. Flags that are not given set no value.

    Args:
        titles: group titles by class. Defaults to the first line of the class's docstring.
    """
    for cls in classes:
        groups = [((titles or {})[cls], list(options_of(cls)))] if cls in (titles or {}) else groups_of(cls)
        for title, options in groups:
            group = parser.add_argument_group(title)
            for declared in options:
                _add_flag(group, declared)


def given_values(parsed: argparse.Namespace, options: Iterable[Field]) -> dict[str, Any]:
    """Return the options that were given on the command line, by name."""
    return {declared.name: vars(parsed)[declared.name] for declared in options if declared.name in vars(parsed)}


def _add_flag(group: argparse._ArgumentGroup, declared: Field) -> None:
    kind, metadata = type_of(declared), declared.metadata
    settings: dict[str, Any] = {"help": _help(declared), "default": argparse.SUPPRESS, "dest": declared.name}
    if kind.kind is bool:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        settings["type"] = _reader(declared, kind.kind)
        if metadata["choices"]:
            settings["metavar"] = "{" + ",".join(metadata["choices"]) + "}"
        if kind.is_list:
            settings["nargs"] = "+"
        elif metadata["const"] is not None:
            settings |= {"nargs": "?", "const": metadata["const"]}
    group.add_argument(*(f"--{name}" for name in (declared.name, *metadata["aliases"])), **settings)


def _help(declared: Field) -> str:
    """Return the help text with the default, unless the text tells it or the option has none or is off by default."""
    default, text = default_of(declared), declared.metadata["help"]
    if default is None or default is False or default == [] or "default" in text:
        return text
    return f"{text} Default: {shown_value(default)}."


def _reader(declared: Field, kind: type) -> Callable[[str], Any]:
    """Return a function that parses one value of an option. The dataclass checks the range later and names the option."""

    def read(text: str) -> Any:
        value = _number(kind, text) if kind in EXPECTED else text
        try:
            return check_choice(declared, value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not valid: it must be {error}") from None

    read.__name__ = kind.__name__
    return read
