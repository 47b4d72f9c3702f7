"""What a metric is."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ..prompts import EvaluationPrompt

Gather = Callable[[list[Any]], list[Any]]
"""Collects the records of all processes. All processes must call it, and get the same list."""


class Metric(Protocol):
    """Scores a set of images.

    A metric is updated with the images of one process. `compute` is called by all processes and returns the scores of all
    images in each of them.
    """

    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        """Add images.

        Args:
            images: uint8, shape [N, 3, H, W].
            prompts: the N prompts of the images.
        """

    def compute(self) -> dict[str, float]:
        """Return the scores of the images since the last `reset`, by name. Without images there is no score."""

    def reset(self) -> None:
        """Forget the images."""

    def to(self, device: torch.device | str) -> None:
        """Move the metric's models to a device."""


class TorchMetric:
    """A metric of torchmetrics with one score.

    Args:
        name: name of the score.
        metric: the metric.
    """

    def __init__(self, name: str, metric: Any) -> None:
        self.name, self.metric = name, metric

    def compute(self) -> dict[str, float]:
        return {self.name: self.metric.compute().item()}

    def reset(self) -> None:
        self.metric.reset()

    def to(self, device: torch.device | str) -> None:
        self.metric.to(device)


class PerImageMetric:
    """A metric whose scores are computed from one record per image, or per call.

    Args:
        gather: collects the records of all processes. Defaults to the records of this process.
    """

    def __init__(self, gather: Gather = list) -> None:
        self.gather = gather
        self.records: list[Any] = []

    def reset(self) -> None:
        self.records = []

    def to(self, device: torch.device | str) -> None:
        """Do nothing, because the metric has no model that it moves."""
