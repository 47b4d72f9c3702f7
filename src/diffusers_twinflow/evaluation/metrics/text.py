"""Check that images show the text of their prompts, with optical character recognition (OCR)."""

from collections.abc import Callable, Sequence
from math import fsum

import numpy as np
import torch
from PIL import Image

from ...configuration import TwinFlowConfigError
from ..prompts import EvaluationPrompt
from .base import Gather, PerImageMetric
from .objects import as_image

Reader = Callable[[Image.Image], str]
"""Returns the text in an image."""


class RapidOCRReader:
    """Reads the text in an image with the package rapidocr, which includes its models."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR

        self.engine = RapidOCR(params={"Global.log_level": "error"})

    def __call__(self, image: Image.Image) -> str:
        lines = self.engine(np.asarray(image)[..., ::-1]).txts  # the engine takes blue first
        return " ".join(lines or ())


class TextRendering(PerImageMetric):
    """How well images show the text that their prompts ask for.

    Scores are `text`, the mean of 1 minus the edits per character of the wanted text (at least 0), and `text_exact`, the
    share of images in which the whole wanted text was read. Letter case and spaces do not count. Prompts without a text
    are left out.

    Args:
        read: returns the text in an image.
    """

    def __init__(self, read: Reader, gather: Gather = list) -> None:
        super().__init__(gather)
        self.read = read

    def check_prompts(self, prompts: Sequence[EvaluationPrompt]) -> None:
        """Raise a `TwinFlowConfigError` if no prompt has a text."""
        if not any(prompt.text for prompt in prompts):
            raise TwinFlowConfigError(
                "The metric text needs prompts with `text` in a .jsonl file. Without them, leave it out."
            )

    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        for image, prompt in zip(images, prompts, strict=True):
            if prompt.text:
                found, wanted = _letters(self.read(as_image(image))), _letters(prompt.text)
                self.records.append((similarity(found, wanted), wanted in found))

    def compute(self) -> dict[str, float]:
        records = self.gather(self.records)
        if not records:
            return {}
        similarities, exact = zip(*records, strict=True)
        return {"text": fsum(similarities) / len(records), "text_exact": sum(exact) / len(records)}


def similarity(found: str, wanted: str) -> float:
    """Return 1 minus the number of edits from one text to the other per character of `wanted`, at least 0."""
    from torchmetrics.functional.text import edit_distance

    return max(0.0, 1 - edit_distance([found], [wanted]).item() / len(wanted))


def _letters(text: str) -> str:
    return "".join(text.casefold().split())
