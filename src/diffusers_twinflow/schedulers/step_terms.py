"""The arithmetic of a step: sums of tensors with weights that are known before any of them is looked at."""

from typing import NamedTuple

import torch


class Evaluation(NamedTuple):
    """One call of the model: its input, its output, the sigma it stood at, and 1 where the output is noise - data, or -1."""

    sample: torch.Tensor
    model_output: torch.Tensor
    sigma: float | torch.Tensor
    sign: float


def sde_ratio(sigma, sigma_next):
    """`min(1, 2 * sigma * |sigma_next - sigma| / sigma_next**2)` for numbers or tensors, falling sigmas."""
    if isinstance(sigma, torch.Tensor):
        return (2 * sigma * (sigma - sigma_next) / sigma_next.square().clamp_min(1e-12)).clamp_max(1)
    return min(1.0, 2 * sigma * (sigma - sigma_next) / sigma_next**2) if sigma_next > 0 else 1.0


def data_terms(here: Evaluation) -> list:
    """The clean sample that an evaluation predicts."""
    return [(here.sample, 1.0), (here.model_output, -here.sign * here.sigma)]


def prediction_terms(here: Evaluation, sigma_next, ratio, last: Evaluation | None, extrapolation: float) -> list:
    """The deterministic part of a step: `(1 - sigma_next) * x_hat + sigma_next * sqrt(1 - ratio) * z_hat`.

    Args:
        here: the evaluation that the step starts from.
        sigma_next: where the step goes.
        ratio: part of fresh noise.
        last: the evaluation before, from which `x_hat` and `z_hat` are carried on; `None` for none.
        extrapolation: how far, in [0, 1].
    """
    kept = sigma_next * (1 - ratio) ** 0.5
    scale = 1.0 if isinstance(ratio, float) and ratio == 0 else 1 - sigma_next + kept

    def terms(evaluation, weight):
        velocity_weight = evaluation.sign * (kept * (1 - evaluation.sigma) - (1 - sigma_next) * evaluation.sigma)
        return [(evaluation.sample, weight * scale), (evaluation.model_output, weight * velocity_weight)]

    if extrapolation == 0 or last is None:
        return terms(here, 1.0)
    return terms(here, 1 + extrapolation) + terms(last, -extrapolation)


def correction_terms(
    start: Evaluation, here: Evaluation, sigma_next: float, last: Evaluation | None, extrapolation: float
) -> list:
    """Second order: the step from `start` once more, with the mean of the noise predicted there and `here`, its end."""
    half = 0.5 * (sigma_next - start.sigma) / (1 - start.sigma)
    kept = (1 - sigma_next) / (1 - start.sigma)
    if last is None:
        extrapolation = 0.0
    terms = [
        (start.sample, kept + half * (1 + extrapolation)),
        (start.model_output, start.sign * half * (1 + extrapolation) * (1 - start.sigma)),
        (here.sample, half),
        (here.model_output, here.sign * half * (1 - sigma_next)),
    ]
    if extrapolation > 0:
        terms += [
            (last.sample, -half * extrapolation),
            (last.model_output, -last.sign * half * extrapolation * (1 - last.sigma)),
        ]
    return terms


def weighted_sum(terms: list) -> torch.Tensor:
    """Sum of tensors times their weights (numbers, or tensors that broadcast), in as few kernels as there are terms."""
    (first, scale), *terms = terms
    total = first if isinstance(scale, float) and scale == 1 else first * scale
    for tensor, weight in terms:
        if isinstance(weight, torch.Tensor):
            total = torch.addcmul(total, tensor.to(total.dtype), weight)
        else:
            total = torch.add(total, tensor, alpha=weight)
    return total
