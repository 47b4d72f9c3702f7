"""Which captions a sample has, and which of them it is trained with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, LargeList, List

from ..configuration import TwinFlowConfigError
from .config import CAPTION_STRATEGIES
from .draws import SampleDraw
from .images import path_of
from .text_files import BYTE_ORDER_MARK, find_beside, read_text


@dataclass(frozen=True)
class CaptionSource:
    """Where captions come from.

    Attributes:
        strategy: "column" (texts or lists of texts in `columns`), "textfile" (image.txt beside image.png, a caption a
            line), "filename" (the image's name, underscores read as spaces) or "instance_prompt" (one for all).
        columns: caption columns; where there are several, one of those that a sample has is drawn.
        image_column: where the image's path is read from.
        instance_prompt: the prompt of that strategy.
        dropout_probability: how often the empty prompt is trained instead.
        class_names: the names of the classes of columns that hold class numbers.

    Raises:
        TwinFlowConfigError: where an option is out of its range or another is missing.
    """

    strategy: str = "column"
    columns: tuple[str, ...] = ("text",)
    image_column: str = "image"
    instance_prompt: str | None = None
    dropout_probability: float = 0.0
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.strategy not in CAPTION_STRATEGIES:
            raise TwinFlowConfigError(
                f"caption_strategy='{self.strategy}' must be one of {', '.join(CAPTION_STRATEGIES)}."
            )
        if self.strategy == "instance_prompt" and not self.instance_prompt:
            raise TwinFlowConfigError("caption_strategy='instance_prompt' needs `instance_prompt`.")
        if not 0 <= self.dropout_probability <= 1:
            raise TwinFlowConfigError(
                f"caption_dropout_probability={self.dropout_probability} must be between 0 and 1."
            )

    @property
    def needed_columns(self) -> list[str]:
        return list(self.columns) if self.strategy == "column" else []

    @property
    def reads_path(self) -> bool:
        return self.strategy in ("textfile", "filename")

    def named_by(self, features: Mapping[str, Any] | None) -> "CaptionSource":
        """The same source, with class names as captions if columns hold class numbers.

        Args:
            features: the features of the rows, by column.
        """
        kinds = {column: _element((features or {}).get(column)) for column in self.columns}
        names = {column: kind.names for column, kind in kinds.items() if isinstance(kind, ClassLabel)}
        return replace(self, class_names=names)

    def candidates(self, row: dict) -> list[str]:
        """The captions of a row that are not blank.

        Raises:
            OSError, ValueError: if a sample has no text file, or the file cannot be read as text.
        """
        if self.strategy == "instance_prompt" and self.instance_prompt:
            return [self.instance_prompt]
        if self.strategy == "column":
            return _texts([_named(row[column], self.class_names.get(column)) for column in self.columns])
        path = Path(path_of(row[self.image_column]) or "")
        if self.strategy == "filename":
            return _texts([path.stem.replace("_", " ")])
        return _texts(read_text(text_file(path)).split("\n") if path.name else [])

    def choose(self, candidates: list[str], draw: SampleDraw) -> str:
        """The caption to train with, or the empty prompt."""
        if draw.dropout < self.dropout_probability:
            return ""
        return candidates[int(draw.caption * len(candidates))]


def text_file(image_path: str | Path) -> Path:
    """The file that holds the captions of an image."""
    return find_beside(image_path, ".txt")


def _element(feature: Any) -> Any:
    """The feature of the elements of a list, or of a list of lists; any other feature as it is."""
    return _element(feature.feature) if isinstance(feature, (List, LargeList)) else feature


def _named(value: Any, names: list[str] | None) -> Any:
    """Class numbers as names. A negative number stands for no class."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if value >= 0 else None


def _texts(values: list) -> list[str]:
    """Texts and lists of texts as one list, without blanks."""
    texts = []
    for value in values:
        if isinstance(value, list):
            texts += _texts(value)
        elif value is not None:
            texts.append(str(value).replace(BYTE_ORDER_MARK, "").strip())
    return [text for text in texts if any(map(_is_visible, text))]


def _is_visible(character: str) -> bool:
    return character.isprintable() and not character.isspace()
