"""The prompts and the noise on which every row is scored."""

from dataclasses import dataclass

import torch

from .dataset import Split
from .settings import Settings


@dataclass
class Evaluation:
    """
    Attributes:
        prompts: first `samples` captions of training images (name and group in turn), then `diversity` group captions with
            several seeds each, then the captions of the held-out images.
        groups, styles: classes that the prompts ask for.
        noise: shape [N, C, h, w].
        samples, diversity: number of prompts of the first two kinds.
        seeds: number of images per prompt of `diversity`.
    """

    prompts: list[str]
    groups: torch.Tensor
    styles: torch.Tensor
    noise: torch.Tensor
    samples: int
    diversity: int
    seeds: int

    def part(self, name: str) -> slice:
        """Return the rows of "name" and "group" captions, "samples" (both), "diversity" or "held_out"."""
        end = self.samples + self.diversity
        parts = {
            "samples": slice(0, self.samples),
            "name": slice(0, self.samples, 2),
            "group": slice(1, self.samples, 2),
            "diversity": slice(self.samples, end),
            "held_out": slice(end, None),
        }
        return parts[name]


def build_evaluation(train: Split, test: Split, settings: Settings) -> Evaluation:
    """Choose prompts in the proportions of the training data, so that good samples have the distribution of its images."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    orders = [torch.randperm(len(train), generator=generator) for _ in range(-(-settings.samples // len(train)))]
    chosen = torch.cat(orders)[: settings.samples].tolist()
    prompts = [train.group_texts[i] if n % 2 else train.texts[i] for n, i in enumerate(chosen)]
    diverse = torch.randperm(len(train), generator=generator)[: settings.diversity_prompts].tolist()
    diverse = [index for index in diverse for _ in range(settings.diversity_seeds)]
    prompts += [train.group_texts[index] for index in diverse] + test.texts
    rows = torch.tensor(chosen + diverse)
    side = settings.image_size // 4
    return Evaluation(
        prompts=prompts,
        groups=torch.cat([train.groups[rows], test.groups]),
        styles=torch.cat([train.styles[rows], test.styles]),
        noise=torch.randn((len(prompts), settings.latent_channels, side, side), generator=generator),
        samples=settings.samples,
        diversity=len(diverse),
        seeds=settings.diversity_seeds,
    )
