"""Scores with a CLIP model: how well images match their prompts, and how much the images of one prompt differ."""

from collections import defaultdict
from collections.abc import Sequence
from math import fsum

import torch

from ..models import PromptModel
from ..prompts import EvaluationPrompt
from .base import Gather, PerImageMetric, TorchMetric


class PromptScore(TorchMetric):
    """CLIP score of torchmetrics: 100 times the mean cosine similarity of images and prompts, at least 0.

    Args:
        model: CLIP model.
        name: name of the score.
        is_shared: whether the images are spread over all processes. If not, this process has all images.
    """

    def __init__(self, model: PromptModel, *, name: str = "clip_score", is_shared: bool = False) -> None:
        from torchmetrics.multimodal import CLIPScore

        metric = CLIPScore(lambda: (model, model.processor), sync_on_compute=is_shared)  # type: ignore[arg-type, return-value]
        super().__init__(name, metric)

    @torch.no_grad()
    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        self.metric.update(images, [prompt.prompt for prompt in prompts])


class Diversity(PerImageMetric):
    """Mean distance between two images of the same prompt: 1 minus the cosine similarity of their CLIP features.

    Prompts with one image are left out.
    """

    def __init__(self, model: PromptModel, gather: Gather = list) -> None:
        super().__init__(gather)
        self.model = model

    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        features = self.model(images).float().cpu()
        self.records += [(prompt.prompt, feature) for prompt, feature in zip(prompts, features, strict=True)]

    def compute(self) -> dict[str, float]:
        by_prompt = defaultdict(list)
        for prompt, feature in self.gather(self.records):
            by_prompt[prompt].append(feature)
        distances = [mean_distance(torch.stack(each)) for each in by_prompt.values() if len(each) > 1]
        return {"diversity": fsum(distances) / len(distances)} if distances else {}

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)


def mean_distance(features: torch.Tensor) -> float:
    """Return the mean of 1 minus the cosine similarity over all pairs of features of length 1, shape [N, D]."""
    count = len(features)
    similarity = (features @ features.T).sum() - features.square().sum()
    return 1 - similarity.item() / (count * (count - 1))
