"""Options as dataclass fields, which declare type, default, help text and allowed values in one place.

The command line, JSON recipes, docs/options.md and the checks of values all read these declarations.
"""

import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from . import lenient_json
from .ranges import Range

SWITCHES = {"true": True, "false": False}
"""Texts that recipes may use instead of a JSON boolean."""
MAX_SUGGESTIONS = 3
UNSET: tuple[Any, ...] = (None, False, 0, "", [], ["none"])
"""Values of options that turn something off."""
CONDITION = re.compile(r"(!?)(\w+)(?:(!?=)(.+))?")
"""A condition of `option`: whether it is negated, the option, the sign and the value."""
EXAMPLE = '{"rank": 64, "resolution": 1024}'
OTHER_FORMATS = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".ini": "INI", ".py": "Python"}
"""Formats of options in other programs, by the suffix of the file."""
JSON_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
EXPECTED = {int: "a whole number", float: "a number", bool: "true or false"}


class TwinFlowConfigError(ValueError):
    """Raised if an option is unknown, has a bad value or contradicts another. The message says what to do."""


def option(
    default: Any,
    help: str,
    allowed: Range | None = None,
    *,
    choices: Sequence[str] = (),
    aliases: Sequence[str] = (),
    const: str | None = None,
    fixed: bool = False,
    local: bool = False,
    needs: Sequence[str] = (),
) -> Any:
    """Create a dataclass field that is an option.

    Args:
        default: the default value.
        help: what the option does and when to change it, in one sentence.
        allowed: the range of a numeric option.
        choices: the allowed values of a text option; empty if any text is allowed.
        aliases: further names that command lines and recipes may use.
        const: the value of a flag that is given without a value.
        fixed: whether a resumed run must have the same value.
        local: whether the value is a path on this machine, which does not affect the result.
        needs: conditions on other options without which the option is not used. All must hold. A condition is "name" (is
            set), "!name" (is not set), "name=value" or "name!=value", or several of them with "|" in between.
    """
    metadata = {
        "help": help,
        "allowed": allowed,
        "choices": tuple(choices),
        "aliases": tuple(aliases),
        "const": const,
        "fixed": fixed,
        "local": local,
        "needs": tuple(needs),
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class OptionType:
    """The type of an option.

    Attributes:
        kind: `bool`, `int`, `float` or `str`.
        is_list: whether the option has several values.
        is_optional: whether it may be `None`.
    """

    kind: type
    is_list: bool
    is_optional: bool


def type_of(declared: Field) -> OptionType:
    """Return the type of an option from its annotation, such as `int`, `str | None` or `list[int]`."""
    parts = get_args(declared.type) if get_origin(declared.type) in (Union, types.UnionType) else (declared.type,)
    lists = [part for part in parts if get_origin(part) is list]
    kinds = [part for part in parts if part is not type(None) and part not in lists]
    kind = get_args(lists[0])[0] if lists else kinds[0]
    return OptionType(kind, bool(lists), type(None) in parts)


def default_of(declared: Field) -> Any:
    """Return the default of an option. A list is created anew."""
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default


def shown_value(value: Any) -> str:
    """Return a value as it is written on the command line or in JSON, not as Python shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def options_of(*classes: type) -> Iterator[Field]:
    """Return the options of dataclasses, in the order of their declaration."""
    for each in classes:
        yield from (declared for declared in fields(each) if "help" in declared.metadata)


def groups_of(cls: type) -> Iterator[tuple[str, list[Field]]]:
    """Group the options of a dataclass by the class that declares them.

    Returns:
        Pairs of the first line of the class's docstring and the options.
    """
    declared = {each.name: each for each in options_of(cls)}
    for owner in reversed(cls.__mro__):
        names = [name for name in vars(owner).get("__annotations__", {}) if name in declared]
        if names:
            yield (owner.__doc__ or owner.__name__).splitlines()[0].rstrip("."), [declared.pop(name) for name in names]


def from_json(declared: Field, value: Any) -> Any:
    """Convert a JSON value to the value of an option.

    Raises:
        ValueError: if the JSON value is not valid; the message is what it must be, such as "a number".
    """
    kind = type_of(declared)
    if kind.is_list:
        return [_one_from_json(declared, kind.kind, part) for part in (value if isinstance(value, list) else [value])]
    if declared.metadata["const"] is not None and isinstance(value, bool):
        return declared.metadata["const"] if value else default_of(declared)
    return _one_from_json(declared, kind.kind, value)


def _one_from_json(declared: Field, kind: type, value: Any) -> Any:
    """Convert one JSON value. A whole number may be written as a float, such as 2.0."""
    if kind is bool:
        if isinstance(value, str) and value.lower() in SWITCHES:
            return SWITCHES[value.lower()]
        if isinstance(value, bool):
            return value
        raise ValueError(EXPECTED[bool])
    expected = EXPECTED.get(kind, "a string")
    if isinstance(value, (bool, list, dict)) or (kind is int and isinstance(value, float) and not value.is_integer()):
        raise ValueError(expected)
    try:
        converted = kind(value)
    except (ValueError, OverflowError):
        raise ValueError(expected) from None
    return check_choice(declared, converted)


def unused_options(declared: Iterable[Field], values: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that differ from their default but are not used, with what each needs, by name.

    Args:
        declared: the options to look at. Options without a value in `values` are skipped.
        values: values of all options by name.
    """
    unused = {}
    for each in declared:
        if each.name not in values or values[each.name] in (None, default_of(each)):
            continue
        for need in each.metadata["needs"]:
            if not any(_holds(condition, values) for condition in need.split("|")):
                unused[each.name] = describe_need(need)
                break
    return unused


def describe_need(need: str) -> str:
    """Return a condition of `option` as words, such as "needs `score_steps`" or "is not used with `max_train_steps`"."""
    wanted: list[str] = []
    unwanted: list[str] = []
    for condition in need.split("|"):
        is_not, name, sign, value = _parts(condition)
        (unwanted if is_not or sign == "!=" else wanted).append(f"`{name}={value}`" if value else f"`{name}`")
    return f"needs {' or '.join(wanted)}" if wanted else f"is not used with {' or '.join(unwanted)}"


def unused_note(declared: Iterable[Field], values: Mapping[str, Any]) -> str | None:
    """Return one line that names the unused options and what each needs; `None` if all are used. See `unused_options`."""
    unused = unused_options(declared, values)
    if not unused:
        return None
    listed = ", ".join(f"`{name}` ({need})" for name, need in unused.items())
    return f"options that are not used in training: {listed}. Set what they need, or leave them out."


def _holds(condition: str, values: Mapping[str, Any]) -> bool:
    """Return whether a condition of `option` holds. It does if the option is not known."""
    is_not, name, sign, expected = _parts(condition)
    if name not in values:
        return True
    value = values[name]
    if sign:
        return (shown_value(value) == expected) == (sign == "=")
    return (value not in UNSET) != bool(is_not)


def _parts(condition: str) -> tuple[str, str, str | None, str | None]:
    """Return a "!" or nothing, the option, the sign and the value of a condition.

    Raises:
        ValueError: if it is not a condition.
    """
    found = CONDITION.fullmatch(condition)
    if found is None:
        raise ValueError(f"{condition!r} is not a condition on an option: write it as name, !name or name=value.")
    is_not, name, sign, value = found.groups()
    return is_not, name, sign, value


def check_choice(declared: Field, value: Any) -> Any:
    """Return the value, in lower case if that makes it one of the option's choices.

    Raises:
        ValueError: if the value is not one of the choices; the message lists them.
    """
    choices = declared.metadata["choices"]
    if not choices or value in choices:
        return value
    if isinstance(value, str) and value.lower() in choices:
        return value.lower()
    raise ValueError(f"one of {', '.join(choices)}")


def check_values(options: Any) -> None:
    """Check every option of a dataclass instance.

    Raises:
        TwinFlowConfigError: if a value has the wrong type, is out of range or is not one of the choices.
    """
    for declared in options_of(type(options)):
        value = getattr(options, declared.name)
        for each in value if isinstance(value, (list, tuple)) and type_of(declared).is_list else [value]:
            _check_value(declared, each)


def _check_value(declared: Field, value: Any) -> None:
    kind = type_of(declared)
    if value is None and kind.is_optional:
        return
    if declared.metadata["local"] and isinstance(value, str) and not value.strip():
        raise TwinFlowConfigError(f"`{declared.name}` is empty: give a value, or leave it out.")
    accepted = (int, float) if kind.kind is float else kind.kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind.kind is not bool):
        raise TwinFlowConfigError(
            f"{declared.name}={value!r} is not valid: it must be {EXPECTED.get(kind.kind, 'a string')}."
        )
    allowed, choices = declared.metadata["allowed"], declared.metadata["choices"]
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if not is_finite or (allowed is not None and value not in allowed):
        raise TwinFlowConfigError(f"{declared.name}={value} is not valid: it must be {allowed or 'a finite number'}.")
    if choices and value not in choices:
        raise TwinFlowConfigError(f"{declared.name}={value!r} is not valid: it must be one of {', '.join(choices)}.")


def check_option_name(name: str, known: list[str]) -> None:
    """Raise a `TwinFlowConfigError` if `name` is not a known option. The message suggests the closest option."""
    if name not in known:
        raise TwinFlowConfigError(f"unknown option '{name}'. {suggest_option(name, known)}")


def suggest_option(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a sentence that names the options that an unknown option may mean.

    They are a misspelled option, or else longer names, or else names with cut words, or else names that begin with it.

    Args:
        prefix: text before each name, such as the "--" of flags.
    """
    known = sorted(known)
    meant = misspelled_option(name, known)
    longer = [option for option in known if {*name.split("_")} <= {*option.split("_")}]
    longer = longer or [option for option in known if _cuts_words(name, option)]
    longer = longer or [option for option in known if option.startswith(name)]
    close = [meant] if meant else longer if len(longer) <= MAX_SUGGESTIONS else []
    if not close:
        return "Remove it, or see --help for the options."
    return f"Did you mean {' or '.join(repr(prefix + option) for option in close)}?"


def _cuts_words(one: str, other: str) -> bool:
    """Return whether two names have the same words, except that some are cut, as in `out` and `output`."""
    pairs = list(zip(one.split("_"), other.split("_")))
    cut = all(min(len(a), len(b)) >= 3 and (a.startswith(b) or b.startswith(a)) for a, b in pairs)
    return cut and one.count("_") == other.count("_")


def misspelled_option(name: str, known: Iterable[str]) -> str | None:
    """Return the known option that `name` misspells, or `None`.

    A word may differ by one letter, or by two if it is long. It must not be a word of another known option, so
    `maximum_size` is never taken for `minimum_size`.
    """
    words = {word for option in known for word in option.split("_")}
    for option in sorted(known):
        if option.replace("_", "") == name.replace("_", ""):
            return option
        pairs = list(zip_longest(name.split("_"), option.split("_"), fillvalue=""))
        if all(given == meant or (given not in words and _is_misspelled(given, meant)) for given, meant in pairs):
            return option
    return None


def _is_misspelled(given: str, meant: str) -> bool:
    if min(len(given), len(meant)) < 3 or re.sub(r"\D", "", given) != re.sub(r"\D", "", meant):
        return False
    return _edits(given, meant) <= (1 if len(meant) < 9 else 2)


def _edits(given: str, meant: str) -> int:
    """Count the letters to insert, delete, replace or swap to turn one word into the other."""
    rows = [list(range(len(meant) + 1))]
    for i, letter in enumerate(given, start=1):
        row = [i]
        for j, other in enumerate(meant, start=1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == meant[j - 2] and given[i - 2] == other:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def read_json_options(path: str | Path) -> dict[str, Any]:
    """Read a JSON object of options. Comments, trailing commas and a byte order mark are accepted.

    Raises:
        TwinFlowConfigError: if the file is missing, is not JSON or is not an object.
    """
    path = Path(path)
    try:
        options = lenient_json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TwinFlowConfigError(f"config '{path}' does not exist: pass the path of a JSON file.") from None
    except OSError as error:
        raise TwinFlowConfigError(f"config '{path}' cannot be read ({error.strerror}): pass a JSON file.") from None
    except ValueError as error:
        other = OTHER_FORMATS.get(path.suffix.lower())
        advice = f"Write the options as JSON, not as {other}" if other else "Correct the file, which must be JSON"
        raise TwinFlowConfigError(f"config '{path}' is not valid JSON ({error}). {advice}: {EXAMPLE}.") from None
    if not isinstance(options, dict):
        raise TwinFlowConfigError(
            f"config '{path}' contains a JSON {JSON_NAMES.get(type(options), 'value')}: it must be a JSON object, such as "
            f"{EXAMPLE}."
        )
    return options
