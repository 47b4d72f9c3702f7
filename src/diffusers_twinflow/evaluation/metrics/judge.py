"""Score images with a function of the user, such as a preference model or a vision-language model."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Any

import torch

from ...configuration import TwinFlowConfigError
from ..prompts import EvaluationPrompt
from .base import Gather, PerImageMetric

Judge = Callable[[torch.Tensor, list[str]], Any]
"""Takes images of shape [N, 3, H, W] with values in [0, 1] and the N prompts. Returns one number per image, or one number
for all of them, or a dictionary of these by name."""


class JudgeScore(PerImageMetric):
    """Mean of the numbers that a function of the user gives to images.

    If the function returns one number for all images of a call, the mean weights each call by its number of images.

    Args:
        judge: the function.
        name: name of the score if the function returns no names.
        gather: as in `PerImageMetric`.
    """

    def __init__(self, judge: Judge, *, name: str = "judge", gather: Gather = list) -> None:
        super().__init__(gather)
        self.judge, self.name = judge, name

    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        with torch.no_grad():
            result = self.judge(images.float() / 255, [prompt.prompt for prompt in prompts])
        named = result if isinstance(result, Mapping) else {self.name: result}
        self.records.append({name: (_total(name, values, len(images)), len(images)) for name, values in named.items()})

    def compute(self) -> dict[str, float]:
        by_name = defaultdict(list)
        for record in self.gather(self.records):
            for name, part in record.items():
                by_name[name].append(part)
        return {name: fsum(total for total, _ in parts) / sum(n for _, n in parts) for name, parts in by_name.items()}


def _total(name: str, values: Any, count: int) -> float:
    """Return the sum of one number per image. A single number counts for each image."""
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    try:
        if not isinstance(values, Sequence) and not hasattr(values, "__len__"):
            return float(values) * count
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise TwinFlowConfigError(
            f"The judge returned {values!r} as '{name}': it must return numbers, one per image."
        ) from error
    if len(numbers) != count:
        raise TwinFlowConfigError(
            f"The judge returned {len(numbers)} numbers as '{name}' for {count} images: it must return one per image."
        )
    return fsum(numbers)
