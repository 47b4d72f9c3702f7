"""The scores of a set of images."""

import torch
from judge import frechet_distance

from .dataset import Split
from .judge import Judge, agreement, extract_features
from .prompts import Evaluation


class Scorer:
    """Scores images of the evaluation's prompts.

    Args:
        train: the reference images of the Frechet distance.
    """

    def __init__(self, judge: Judge, train: Split, evaluation: Evaluation):
        self.judge, self.evaluation = judge, evaluation
        self.real = extract_features(judge, train.images)
        self.reference: torch.Tensor | None = None
        self.reference_features: torch.Tensor | None = None

    def set_reference(self, images: torch.Tensor) -> None:
        """Set the base's images of the same prompts and noise, the reference of distances to the base."""
        self.reference, self.reference_features = images, extract_features(self.judge, images)

    def score(self, images: torch.Tensor) -> dict[str, float]:
        """Score images `[N, 3, H, W]` in [0, 1] of all prompts of the evaluation."""
        evaluation = self.evaluation
        features = extract_features(self.judge, images)
        row = {}
        for part, name in (("samples", "frechet_distance"), ("name", "frechet_names"), ("group", "frechet_groups")):
            row[name] = frechet_distance(features[evaluation.part(part)], self.real)
        for part, prefix in (("samples", ""), ("held_out", "held_out_")):
            rows = evaluation.part(part)
            shares = agreement(self.judge, features[rows], evaluation.groups[rows], evaluation.styles[rows])
            row |= {f"{prefix}{name}": share for name, share in shares.items()}
        row["diversity"] = diversity(features[evaluation.part("diversity")], evaluation.seeds)
        if self.reference is not None:
            row["distance_to_base"] = pairwise_mean(features, self.reference_features)
            row["pixel_error_to_base"] = (images - self.reference).square().flatten(1).mean(1).sqrt().mean().item()
        return row

    def real_row(self, train: Split, test: Split) -> dict[str, float]:
        """Return the scores of real held-out images: the judge's accuracy on them, and their distance to the training images."""
        features = extract_features(self.judge, test.images)
        row = {"frechet_distance": frechet_distance(features, self.real)}
        row |= agreement(self.judge, features, test.groups, test.styles)
        row["train_agreement"] = agreement(self.judge, self.real, train.groups, train.styles)["agreement"]
        row["diversity"] = real_diversity(self.real, train.groups * train.num_styles + train.styles)
        return row


def pairwise_mean(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the mean distance between all pairs of features `[N, D]`."""
    return (first - second).norm(dim=1).mean().item()


def diversity(features: torch.Tensor, seeds: int) -> float:
    """Return the mean distance between images of one prompt. Features `[prompts * seeds, D]` are grouped by prompt."""
    grouped = features.unflatten(0, (-1, seeds))
    return (torch.cdist(grouped, grouped).sum(dim=(1, 2)) / (seeds * (seeds - 1))).mean().item()


def real_diversity(features: torch.Tensor, classes: torch.Tensor) -> float:
    """Return the same for real images of one group and style. Each group is weighted by its number of images."""
    total, count = 0.0, 0
    for value in classes.unique().tolist():
        chosen = features[(classes == value).to(features.device)]
        if len(chosen) > 1:
            total += diversity(chosen, len(chosen)) * len(chosen)
            count += len(chosen)
    return total / max(1, count)
