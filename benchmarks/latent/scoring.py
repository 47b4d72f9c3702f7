"""Choose the prompts of an evaluation, and score images with the metrics of `diffusers-twinflow evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from diffusers_twinflow.evaluation import EvaluationPrompt
from diffusers_twinflow.evaluation.metrics import Diversity, FrechetDistance, JudgeScore

from .data import Drawing
from .judge import CaptionJudge, UnitFeatures
from .settings import Settings

BATCH_SIZE = 256


@dataclass(frozen=True)
class Prompts:
    """The prompts of all images of a row, in three parts that follow each other.

    Attributes:
        known: captions of training, one image each.
        held_out: captions that training did not see, one image each.
        repeated: captions of training, each as often as there are seeds.
    """

    known: list[str]
    held_out: list[str]
    repeated: list[str]

    @classmethod
    def choose(cls, drawings: Sequence[Drawing], settings: Settings) -> "Prompts":
        known = [drawing.caption for drawing in drawings if not drawing.is_held_out]
        repeated = evenly(known, settings.diversity_prompts)
        return cls(
            evenly(known, settings.prompts),
            [drawing.caption for drawing in drawings if drawing.is_held_out],
            [caption for caption in repeated for _ in range(settings.diversity_seeds)],
        )

    @property
    def all(self) -> list[str]:
        return self.known + self.held_out + self.repeated

    @cached_property
    def parts(self) -> dict[str, slice]:
        first, second = len(self.known), len(self.known) + len(self.held_out)
        return {"known": slice(0, first), "held_out": slice(first, second), "repeated": slice(second, None)}


def evenly(items: Sequence[str], count: int) -> list[str]:
    """Choose items at equal distances, each at most once."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


class Scorer:
    """Scores the images of all prompts.

    Args:
        judge: trained judge.
        images: real drawings, uint8 of shape [N, 3, H, W].
        is_held_out: which of them are held out. The Fréchet distance of each part is taken to the drawings of that part.
    """

    def __init__(self, judge: CaptionJudge, images: torch.Tensor, is_held_out: torch.Tensor, device: torch.device):
        self.judge, self.device = judge, device
        self.frechet: dict[str, FrechetDistance] = {}
        for part, reference in (("known", images[~is_held_out]), ("held_out", images[is_held_out])):
            self.frechet[part] = FrechetDistance(judge)
            self.frechet[part].to(device)
            for batch in reference.split(BATCH_SIZE):
                self.frechet[part].add_reference(batch.to(device))

    def score(self, images: torch.Tensor, prompts: Prompts) -> dict[str, float]:
        """Return the scores of uint8 images on the CPU, by name. Scores of the held-out prompts begin with `held_out_`."""
        scores: dict[str, float] = {}
        for part, prefix in (("known", ""), ("held_out", "held_out_")):
            rows = prompts.parts[part]
            metrics = [self.frechet[part], JudgeScore(self.judge.score)]
            found = self._measure(metrics, images[rows], prompts.all[rows])
            scores |= {prefix + name: value for name, value in found.items()}
        rows = prompts.parts["repeated"]
        return scores | self._measure([Diversity(UnitFeatures(self.judge))], images[rows], prompts.all[rows])

    def distance(self, images: torch.Tensor) -> float:
        """Return the Fréchet distance of images of known prompts."""
        return self._measure([self.frechet["known"]], images, [""] * len(images))["fid"]

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
