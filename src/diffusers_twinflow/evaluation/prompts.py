"""Read the prompts of an evaluation and what their images must show."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError
from ..data.text_files import read_text

JSON_LINES = (".jsonl", ".ndjson")
POSITIONS = ("left of", "right of", "above", "below")
FIELDS = ("prompt", "tag", "include", "exclude", "text")
OBJECT_FIELDS = ("class", "count", "color", "position")


@dataclass(frozen=True)
class ExpectedObject:
    """An object that an image must show.

    Attributes:
        name: class name of the object.
        count: number of objects of this class.
        position: where the object is, such as "left of", and the index of the expected object that it is relative to.
        color: color of the object. No metric checks it.
    """

    name: str
    count: int = 1
    position: tuple[str, int] | None = None
    color: str | None = None


@dataclass(frozen=True)
class EvaluationPrompt:
    """A prompt and what its images must show.

    Attributes:
        prompt: the prompt.
        tag: group of the prompt, such as "counting". Scores of object checks are also given per group.
        include: objects that an image must show, at least `count` of each.
        exclude: objects that an image must not show `count` times or more.
        text: text that an image must show.
    """

    prompt: str
    tag: str | None = None
    include: tuple[ExpectedObject, ...] = ()
    exclude: tuple[ExpectedObject, ...] = ()
    text: str | None = None

    @property
    def expects_objects(self) -> bool:
        """Whether the image can be checked for objects. Colors cannot be checked."""
        expected = (*self.include, *self.exclude)
        return bool(expected) and all(each.color is None for each in expected)


def read_prompts(path: str | Path) -> list[EvaluationPrompt]:
    """Read a file of prompts.

    A `.jsonl` file has one JSON object per line with `prompt` and optionally `tag`, `include`, `exclude` and `text`, as in
    GenEval. Any other file has one prompt per line. Empty lines are skipped.

    Raises:
        TwinFlowConfigError: if the file is missing, contains no prompt, or a line is not valid.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise TwinFlowConfigError(f"prompts={str(path)!r} cannot be read ({reason}): pass a text file.") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise TwinFlowConfigError(f"prompts={str(path)!r} contains no prompt: write one per line.")
    if Path(path).suffix.lower() not in JSON_LINES:
        return [EvaluationPrompt(line) for _, line in lines]
    prompts = []
    for number, line in lines:
        try:
            prompts.append(_parse(line))
        except ValueError as error:
            raise TwinFlowConfigError(
                f"Line {number} of prompts={str(path)!r} is not valid: {error}. Correct the line."
            ) from error
    return prompts


def digest_of(prompts: Sequence[EvaluationPrompt]) -> str:
    """Return the SHA-256 of prompts and expectations. Two evaluations with the same value use the same prompts."""
    values = json.dumps([asdict(prompt) for prompt in prompts], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()


def _parse(line: str) -> EvaluationPrompt:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("it must be a JSON object")
    _check_names(values, FIELDS)
    prompt, tag, text = (_text(values, name) for name in ("prompt", "tag", "text"))
    if not prompt:
        raise ValueError("'prompt' is missing")
    include, exclude = (tuple(_parse_object(each) for each in _list(values, name)) for name in ("include", "exclude"))
    for expected in include:
        if expected.position is not None and not 0 <= expected.position[1] < len(include):
            raise ValueError(f"'position' refers to object {expected.position[1]}, but there are {len(include)}")
    return EvaluationPrompt(prompt, tag, include, exclude, text)


def _parse_object(values: Any) -> ExpectedObject:
    if not isinstance(values, dict):
        raise ValueError('an expected object must be a JSON object such as {"class": "dog", "count": 2}')
    _check_names(values, OBJECT_FIELDS)
    name, color = _text(values, "class"), _text(values, "color")
    count, position = values.get("count", 1), values.get("position")
    if not name:
        raise ValueError("an expected object has no 'class'")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"'count' is {count!r}: it must be a whole number of at least 1")
    if position is None:
        return ExpectedObject(name, count, color=color)
    is_pair = isinstance(position, list) and len(position) == 2 and isinstance(position[1], int)
    if not is_pair or position[0] not in POSITIONS:
        raise ValueError(
            f"'position' is {position!r}: it must be one of {', '.join(POSITIONS)}, and an object's index"
        )
    return ExpectedObject(name, count, (position[0], position[1]), color)


def _check_names(values: dict[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise ValueError(f"'{unknown[0]}' is not a known field. The fields are {', '.join(known)}")


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"'{name}' is {value!r}: it must be a string")
    return value.strip() if value else None


def _list(values: dict[str, Any], name: str) -> list[Any]:
    value = values.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f"'{name}' is {value!r}: it must be a list")
    return value
