"""What this package does with an option of SimpleTuner."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...configuration import TwinFlowConfigError

OFF: tuple[Any, ...] = (None, False, "", 0, "none", "null", "false", "0", [], {})
EMPTY: tuple[Any, ...] = ("", "none", "null", [], {})
TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "y", "on"), ("0", "false", "no", "n", "off")
SHOWN_CHARACTERS = 80

Note = Callable[[Any, Mapping[str, Any]], str | None]


def _no_note(value: Any, given: Mapping[str, Any]) -> None:
    return None


@dataclass(frozen=True)
class Renamed:
    """An option of ours with the same meaning.

    Attributes:
        to: our name.
        is_switch: whether it is true or false, in any spelling.
    """

    to: str
    is_switch: bool = False

    def translate(self, name: str, value: Any) -> dict[str, Any]:
        if self.is_switch:
            return {self.to: switch(name, value)}
        return {} if is_unset(value) else {self.to: value}


@dataclass(frozen=True)
class Converted:
    """An option whose value becomes values of our options.

    Attributes:
        to: names of our options.
        convert: takes a value and returns our options. It may raise a `TwinFlowConfigError`.
        note: takes a value and all options of the recipe, and returns why the value has no effect; `None` if it has one.
        is_switch: whether false has an effect, too.
        always: whether the value is converted even though we have an option of the same name.
        with_twinflow: whether the value only matters if TwinFlow is on.
    """

    to: tuple[str, ...]
    convert: Callable[[Any], dict[str, Any]]
    note: Note = _no_note
    is_switch: bool = False
    always: bool = False
    with_twinflow: bool = False

    def translate(self, name: str, value: Any) -> dict[str, Any]:
        return {} if is_unset(value) and not self.is_switch else self.convert(value)


@dataclass(frozen=True)
class Ignored:
    """An option that has no effect here."""

    reason: str

    def translate(self, name: str, value: Any) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Refused:
    """An option that must be off.

    Attributes:
        reason: why, and what to do instead.
        with_twinflow: whether it must be off only if TwinFlow is on.
    """

    reason: str
    with_twinflow: bool = False

    def translate(self, name: str, value: Any) -> dict[str, Any]:
        if value not in OFF:
            verdict = "contradicts TwinFlow" if self.with_twinflow else "is not supported"
            raise TwinFlowConfigError(f"{name}={shown(value)} {verdict}: {self.reason}.")
        return {}


Treatment = Renamed | Converted | Ignored | Refused


def is_unset(value: Any) -> bool:
    """Return whether a value means that the option is left out: null, false or empty, but not 0."""
    return value is None or value is False or (not isinstance(value, (int, float)) and value in EMPTY)


def shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def switch(name: str, value: Any) -> bool:
    """Read a boolean in any spelling, including 0 and 1.

    Raises:
        TwinFlowConfigError: if the value is not a boolean.
    """
    word = str(value).strip().lower()
    if word in TRUE_WORDS + FALSE_WORDS and not isinstance(value, float):
        return word in TRUE_WORDS
    if is_unset(value):
        return False
    raise TwinFlowConfigError(f"{name}={shown(value)} must be true or false.")
