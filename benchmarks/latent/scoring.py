"""Choose the prompts of an evaluation, and score images with the metrics of `diffusers-twinflow evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusers_twinflow.evaluation import EvaluationPrompt
from diffusers_twinflow.evaluation.metrics import Diversity, FrechetDistance, JudgeScore

from .data import Drawing
from .judge import CaptionJudge, UnitFeatures

BATCH_SIZE = 256


@dataclass(frozen=True)
class Prompts:
    """The prompts of all images of a row, in two parts, one after the other.

    Attributes:
        shared: captions of groups, in proportion to the drawings. Each is used with many seeds.
        known: names, each used once.
        places: a real drawing for each prompt.
    """

    shared: list[str]
    known: list[str]
    places: list[int]

    @classmethod
    def choose(cls, drawings: Sequence[Drawing], shared: int, known: int = 0) -> "Prompts":
        """Choose as many prompts of each part. A prompt of a group is never a name."""
        first, second = evenly(len(drawings), shared), evenly(len(drawings), min(known, len(drawings)))
        return cls(
            [drawings[place].group_caption for place in first],
            [drawings[place].caption for place in second],
            first + second,
        )

    @property
    def all(self) -> list[str]:
        return self.shared + self.known


def evenly(length: int, count: int) -> list[int]:
    """Choose places at equal distances. A place is chosen again if there are fewer places than `count`."""
    return [i * length // count for i in range(count)]


class Scorer:
    """Scores the images of all prompts.

    Args:
        judge: trained judge.
        images: the real drawings, uint8 of shape [N, 3, H, W].
    """

    def __init__(self, judge: CaptionJudge, images: torch.Tensor, device: torch.device):
        self.judge, self.device = judge, device
        self.frechet = FrechetDistance(judge)
        self.frechet.to(device)
        for batch in images.split(BATCH_SIZE):
            self.frechet.add_reference(batch.to(device))

    def score(self, images: torch.Tensor, prompts: Prompts) -> dict[str, float]:
        """Return the scores of uint8 images on the CPU, by name. Scores of names begin with `known_`."""
        count = len(prompts.shared)
        of_groups = [self.frechet, JudgeScore(self.judge.score_groups), Diversity(UnitFeatures(self.judge))]
        scores = self._measure(of_groups, images[:count], prompts.shared)
        known = self._measure([self.frechet, JudgeScore(self.judge.score_names)], images[count:], prompts.known)
        return scores | {f"known_{name}": value for name, value in known.items()}

    def distance(self, images: torch.Tensor) -> float:
        """Return the Fréchet distance of images."""
        return self._measure([self.frechet], images, [""] * len(images))["fid"]

    def _measure(self, metrics: list, images: torch.Tensor, prompts: Sequence[str]) -> dict[str, float]:
        scores: dict[str, float] = {}
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE].to(self.device)
            described = [EvaluationPrompt(prompt) for prompt in prompts[start : start + BATCH_SIZE]]
            for metric in metrics:
                metric.update(batch, described)
        for metric in metrics:
            metric.to("cpu")  # the eigenvalues of a Fréchet distance are not faster on a GPU
            scores |= metric.compute()
            metric.reset()
            metric.to(self.device)
        return scores
