"""Check that the values of a JSON configuration have the types that its class declares."""

import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ..configuration import TwinFlowConfigError


def check_types(name: str, values: dict[str, Any], constructor: Callable) -> None:
    """Check a configuration against the type annotations of a constructor. 1000.0 is accepted as 1000.

    Args:
        name: name of the configuration, for the error message.
        values: values of the configuration by name.
        constructor: `__init__` of the configured class.

    Raises:
        TwinFlowConfigError: if a value has the wrong type; the message names the value and the expected type.
    """
    for key, parameter in inspect.signature(constructor).parameters.items():
        if key in values and not _accepts(parameter.annotation, _whole(values[key])):
            raise TwinFlowConfigError(
                f"{name} has {key}={str(values[key])[:80]!r}: it must be {_in_words(parameter.annotation)}."
            )


def check_whole_numbers(name: str, values: dict[str, Any], constructor: Callable) -> None:
    """Check that whole numbers are not fractions.

    Other types are not checked, because published configurations of diffusers' models do not follow the annotations.
    """
    for key, parameter in inspect.signature(constructor).parameters.items():
        has_fraction = isinstance(values.get(key), float) and not isinstance(parameter.default, float)
        if has_fraction and not _accepts(parameter.annotation, values[key]):
            raise TwinFlowConfigError(f"{name} has {key}={values[key]}: it must be {_in_words(parameter.annotation)}.")


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _accepts(annotation: Any, value: Any) -> bool:
    """Return whether a JSON value has the annotated type. Unknown annotations accept every value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_accepts(argument, value) for argument in arguments)
    if origin is Literal:
        return any(type(value) is type(argument) and value == argument for argument in arguments)
    if (origin or annotation) in (list, tuple):
        return isinstance(value, list) and all(_accepts(arguments[0], item) for item in value if arguments)
    if annotation is bool or annotation is str:
        return isinstance(value, annotation)
    if annotation is int or annotation is float:
        return not isinstance(value, bool) and isinstance(value, (int, annotation))
    if annotation is None or annotation is NoneType:
        return value is None
    return True


def _in_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if (origin or annotation) in (list, tuple):
        return f"a list, each item of it {_in_words(arguments[0])}" if arguments else "a list"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", NoneType: "null"}
    return words.get(annotation, str(annotation))
