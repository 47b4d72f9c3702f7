"""Check that images show the expected objects, as GenEval does."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import logging
from PIL import Image

from ...configuration import TwinFlowConfigError
from ..prompts import EvaluationPrompt, ExpectedObject
from .base import Gather, PerImageMetric

logger = logging.get_logger(__name__)

NO_TAG = "other"


@dataclass(frozen=True)
class Detection:
    """An object that a detector found.

    Attributes:
        name: class name.
        box: left, top, right and bottom in pixels.
    """

    name: str
    box: tuple[float, float, float, float]

    @property
    def center(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def size(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return right - left, bottom - top


Detector = Callable[[list[Image.Image]], list[list[Detection]]]


class HubDetector:
    """Detects objects with the object-detection pipeline of transformers.

    Args:
        name_or_path: folder or Hub id of a detection model.
        threshold: lowest confidence of a detected object.
    """

    def __init__(self, name_or_path: str, threshold: float = 0.5) -> None:
        from transformers import pipeline

        self.pipeline: Any = pipeline("object-detection", model=name_or_path, device="cpu")
        self.threshold = threshold

    @property
    def class_names(self) -> set[str]:
        """Names of the classes that the model knows."""
        return set(self.pipeline.model.config.id2label.values())

    def __call__(self, images: list[Image.Image]) -> list[list[Detection]]:
        found = self.pipeline(images, threshold=self.threshold)
        return [
            [
                Detection(each["label"], tuple(each["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")))
                for each in one
            ]
            for one in found
        ]

    def to(self, device: torch.device | str) -> None:
        self.pipeline.model.to(device)
        self.pipeline.device = torch.device(device)


class ObjectCheck(PerImageMetric):
    """Share of images that show the expected objects, over all prompts with expectations and per tag.

    An image is right if it shows each object of `include` at least `count` times and at its position, and each object of
    `exclude` fewer than `count` times. Prompts that expect a color are left out.
    """

    def __init__(self, detector: HubDetector, gather: Gather = list) -> None:
        super().__init__(gather)
        self.detector = detector

    def check_prompts(self, prompts: Sequence[EvaluationPrompt]) -> None:
        """Check that the detector knows the expected objects.

        Raises:
            TwinFlowConfigError: if no prompt can be checked, or an object is not a class of the detector.
        """
        checked = [prompt for prompt in prompts if prompt.expects_objects]
        with_colors = sum(bool(prompt.include or prompt.exclude) for prompt in prompts) - len(checked)
        if with_colors:
            logger.warning(
                f"{with_colors} prompts expect a color, which is not checked. The metric objects skips them."
            )
        if not checked:
            raise TwinFlowConfigError(
                "The metric objects needs prompts with `include` or `exclude` in a .jsonl file. Without them, leave it out."
            )
        known = self.detector.class_names
        for prompt in checked:
            for expected in (*prompt.include, *prompt.exclude):
                if expected.name not in known:
                    raise TwinFlowConfigError(
                        f"'{expected.name}', which the prompt '{prompt.prompt}' expects, is not a class of the detector. It "
                        f"knows {', '.join(sorted(known)[:20])}{', ...' if len(known) > 20 else ''}."
                    )

    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        chosen = [i for i, prompt in enumerate(prompts) if prompt.expects_objects]
        if not chosen:
            return
        found = self.detector([as_image(images[i]) for i in chosen])
        for i, detections in zip(chosen, found, strict=True):
            self.records.append((prompts[i].tag, is_as_expected(prompts[i], detections)))

    def compute(self) -> dict[str, float]:
        by_tag = defaultdict(list)
        for tag, is_right in self.gather(self.records):
            by_tag[tag].append(is_right)
        everything = [is_right for each in by_tag.values() for is_right in each]
        if not everything:
            return {}
        scores = {"objects": sum(everything) / len(everything)}
        if set(by_tag) != {None}:
            scores |= {
                f"objects/{tag or NO_TAG}": sum(each) / len(each)
                for tag, each in sorted(by_tag.items(), key=lambda item: item[0] or "")
            }
        return scores

    def to(self, device: torch.device | str) -> None:
        self.detector.to(device)


def as_image(image: torch.Tensor) -> Image.Image:
    """Convert a uint8 image of shape [3, H, W]."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def is_as_expected(prompt: EvaluationPrompt, detections: Sequence[Detection]) -> bool:
    """Return whether the detected objects of an image are those that its prompt expects."""
    by_name = defaultdict(list)
    for detection in detections:
        by_name[detection.name].append(detection)
    if any(len(by_name[expected.name]) < expected.count for expected in prompt.include):
        return False
    if any(len(by_name[expected.name]) >= expected.count for expected in prompt.exclude):
        return False
    return all(_is_in_place(expected, prompt, by_name) for expected in prompt.include)


def _is_in_place(expected: ExpectedObject, prompt: EvaluationPrompt, by_name: dict[str, list[Detection]]) -> bool:
    """Return whether some detected object is at the expected position relative to some object of the other class."""
    if expected.position is None:
        return True
    relation, index = expected.position
    others = by_name[prompt.include[index].name]
    return any(
        relation in relations(one, other) for one in by_name[expected.name] for other in others if one is not other
    )


def relations(one: Detection, other: Detection, tolerance: float = 0.1) -> set[str]:
    """Return where the center of one object is relative to another, such as {"left of", "above"}.

    A direction counts if the centers are further apart in it than `tolerance` times the mean size of the objects.
    """
    (x, y), (other_x, other_y) = one.center, other.center
    wide, high = ((own + others) / 2 * tolerance for own, others in zip(one.size, other.size, strict=True))
    found = {
        "left of": x < other_x - wide,
        "right of": x > other_x + wide,
        "above": y < other_y - high,
        "below": y > other_y + high,
    }
    return {name for name, is_so in found.items() if is_so}
