"""Which captions a sample has, and which of them it is trained with."""

from dataclasses import dataclass
from pathlib import Path

from ..configuration import TwinFlowConfigError
from .draws import SampleDraw
from .images import path_of

CAPTION_STRATEGIES = ("column", "textfile", "filename", "instance_prompt")


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

    Raises:
        TwinFlowConfigError: where an option is out of its range or another is missing.
    """

    strategy: str = "column"
    columns: tuple[str, ...] = ("text",)
    image_column: str = "image"
    instance_prompt: str | None = None
    dropout_probability: float = 0.0

    def __post_init__(self):
        if self.strategy not in CAPTION_STRATEGIES:
            raise TwinFlowConfigError(
                f"caption_strategy='{self.strategy}' must be one of {', '.join(CAPTION_STRATEGIES)}."
            )
        if self.strategy == "instance_prompt" and not self.instance_prompt:
            raise TwinFlowConfigError("caption_strategy='instance_prompt' needs --instance_prompt.")
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

    def candidates(self, row: dict) -> list[str]:
        """The captions of a row that are not blank.

        Raises:
            OSError, UnicodeDecodeError: where the text file of a sample is not there or is not UTF-8.
        """
        if self.strategy == "instance_prompt":
            return [self.instance_prompt]
        if self.strategy == "column":
            return _texts([row[column] for column in self.columns])
        path = Path(path_of(row[self.image_column]) or "")
        if self.strategy == "filename":
            return _texts([path.stem.replace("_", " ")])
        return _texts(text_file(path).read_text(encoding="utf-8").splitlines() if path.name else [])

    def choose(self, candidates: list[str], draw: SampleDraw) -> str:
        """The caption to train with, or the empty prompt."""
        if draw.dropout < self.dropout_probability:
            return ""
        return candidates[int(draw.caption * len(candidates))]


def text_file(image_path: str | Path) -> Path:
    """The file that holds the captions of an image."""
    return Path(image_path).with_suffix(".txt")


def _texts(values: list) -> list[str]:
    """Texts and lists of texts as one list, without blanks."""
    texts = []
    for value in values:
        texts += _texts(value) if isinstance(value, list) else [str(value).strip()] if value is not None else []
    return [text for text in texts if text]
