"""Whether the values of a JSON configuration have the types that the class they configure declares."""

import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ..configuration import TwinFlowConfigError


def check_types(name: str, values: dict[str, Any], constructor: Callable) -> None:
    """Compare a configuration with the annotations of a constructor of ours, which takes 1000.0 as 1000.

    Args:
        name: of the configuration, for the message.

    Raises:
        TwinFlowConfigError: naming the value and its type.
    """
    for key, parameter in inspect.signature(constructor).parameters.items():
        if key in values and not _accepts(parameter.annotation, _whole(values[key])):
            raise TwinFlowConfigError(
                f"{name} has {key}={str(values[key])[:80]!r}: it must be {_in_words(parameter.annotation)}."
            )


def check_whole_numbers(name: str, values: dict[str, Any], constructor: Callable) -> None:
    """As `check_types`, but only for fractions in place of whole numbers: the other annotations of diffusers' models
    are not kept to by their own published configurations.
    """
    for key, parameter in inspect.signature(constructor).parameters.items():
        has_fraction = isinstance(values.get(key), float) and not isinstance(parameter.default, float)
        if has_fraction and not _accepts(parameter.annotation, values[key]):
            raise TwinFlowConfigError(f"{name} has {key}={values[key]}: it must be {_in_words(parameter.annotation)}.")


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _accepts(annotation: Any, value: Any) -> bool:
    """Whether a value of JSON is of an annotated type; a type that is not known accepts everything."""
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
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
    return words.get(annotation, str(annotation))
