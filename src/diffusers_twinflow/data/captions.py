"""Read the captions of a sample and choose the one to train with."""

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
    """Reads captions from columns, text files, file names or an option.

    Attributes:
        strategy: one of "column" (texts or lists of texts in `columns`), "textfile" (image.txt next to image.png, one
            caption per line), "filename" (the image's name, with underscores as spaces) and "instance_prompt" (one
            caption for all images).
        columns: caption columns. With several columns, one caption is chosen at random each time.
        image_column: column that the image's path is read from.
        instance_prompt: caption of the strategy "instance_prompt".
        dropout_probability: probability in [0, 1] of using the empty prompt instead.
        class_names: class names of each column with class numbers.

    Raises:
        TwinFlowConfigError: if a value is outside its range or an option is missing.
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
        """Return the same source, with class names as captions for columns with class numbers.

        Args:
            features: features of the rows, by column.
        """
        kinds = {column: _element((features or {}).get(column)) for column in self.columns}
        names = {column: kind.names for column, kind in kinds.items() if isinstance(kind, ClassLabel)}
        return replace(self, class_names=names)

    def candidates(self, row: dict) -> list[str]:
        """Return the captions of a row that are not blank.

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
        """Choose the caption to train with, which may be the empty prompt."""
        if draw.dropout < self.dropout_probability:
            return ""
        return candidates[int(draw.caption * len(candidates))]


def text_file(image_path: str | Path) -> Path:
    """Return the path of the caption file of an image."""
    return find_beside(image_path, ".txt")


def _element(feature: Any) -> Any:
    """Return the feature of the elements of a list or of nested lists. Other features are returned unchanged."""
    return _element(feature.feature) if isinstance(feature, (List, LargeList)) else feature


def _named(value: Any, names: list[str] | None) -> Any:
    """Replace class numbers by names. A negative number means no class."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if value >= 0 else None


def _texts(values: list) -> list[str]:
    """Flatten texts and lists of texts into one list without blank texts."""
    texts = []
    for value in values:
        if isinstance(value, list):
            texts += _texts(value)
        elif value is not None:
            texts.append(str(value).replace(BYTE_ORDER_MARK, "").strip())
    return [text for text in texts if any(map(_is_visible, text))]


def _is_visible(character: str) -> bool:
    return character.isprintable() and not character.isspace()
