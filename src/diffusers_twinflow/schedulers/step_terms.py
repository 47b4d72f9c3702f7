"""The arithmetic of a step: sums of tensors with weights that are known before any of them is looked at."""

from __future__ import annotations  # torch.compile cannot trace the annotations of a function inside a function

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..diff2flow import DIFFUSION_PREDICTION_TYPES

Number = float | torch.Tensor
Term = tuple[torch.Tensor, Number]

# The options with which every token may have its own time.
PER_TOKEN_OPTIONS = {
    "sampling_order": 1,
    "extrapolation_ratio": 0,
    "squeeze_target_time": False,
    "invert_sigmas": False,
}


class Evaluation(NamedTuple):
    """One call of the model: its input, its output, the sigma it stood at, and 1 where the output is noise - data, or -1."""

    sample: torch.Tensor
    model_output: torch.Tensor
    sigma: float | torch.Tensor
    sign: float


def sde_ratio(sigma: Number, sigma_next: Number) -> Number:
    """`min(1, 2 * sigma * |sigma_next - sigma| / sigma_next**2)` for numbers or tensors, falling sigmas."""
    if isinstance(sigma, torch.Tensor) and isinstance(sigma_next, torch.Tensor):
        return (2 * sigma * (sigma - sigma_next) / sigma_next.square().clamp_min(1e-12)).clamp_max(1)
    return min(1.0, 2 * sigma * (sigma - sigma_next) / sigma_next**2) if sigma_next > 0 else 1.0


def data_terms(here: Evaluation) -> list[Term]:
    """The clean sample that an evaluation predicts."""
    return [(here.sample, 1.0), (here.model_output, -here.sign * here.sigma)]


def prediction_terms(
    here: Evaluation, sigma_next: Number, ratio: Number, last: Evaluation | None, extrapolation: float
) -> list[Term]:
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

    def terms(evaluation: Evaluation, weight: float) -> list[Term]:
        velocity_weight = evaluation.sign * (kept * (1 - evaluation.sigma) - (1 - sigma_next) * evaluation.sigma)
        return [(evaluation.sample, weight * scale), (evaluation.model_output, weight * velocity_weight)]

    if extrapolation == 0 or last is None:
        return terms(here, 1.0)
    return terms(here, 1 + extrapolation) + terms(last, -extrapolation)


def correction_terms(
    start: Evaluation, here: Evaluation, sigma_next: float, last: Evaluation | None, extrapolation: float
) -> list[Term]:
    """Second order: the step from `start` once more, with the mean of the noise predicted there and `here`, its end."""
    half = 0.5 * (sigma_next - start.sigma) / (1 - start.sigma)
    kept = (1 - sigma_next) / (1 - start.sigma)
    if last is None:
        extrapolation = 0.0
    terms: list[Term] = [
        (start.sample, kept + half * (1 + extrapolation)),
        (start.model_output, start.sign * half * (1 + extrapolation) * (1 - start.sigma)),
        (here.sample, half),
        (here.model_output, here.sign * half * (1 - sigma_next)),
    ]
    if last is not None and extrapolation > 0:
        terms += [
            (last.sample, -half * extrapolation),
            (last.model_output, -last.sign * half * extrapolation * (1 - last.sigma)),
        ]
    return terms


def weighted_sum(terms: Sequence[Term]) -> torch.Tensor:
    """Sum of tensors times their weights (numbers, or tensors that broadcast), in as few kernels as there are terms."""
    (first, scale), *others = terms
    total = first if isinstance(scale, float) and scale == 1 else first * scale
    for tensor, weight in others:
        if isinstance(weight, torch.Tensor):
            total = torch.addcmul(total, tensor.to(total.dtype), weight)
        else:
            total = torch.add(total, tensor, alpha=weight)
    return total


def per_token_sigmas(timesteps: torch.Tensor, grid: torch.Tensor, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each token stands, and the next sigma of the grid below that, both of shape [B, L, 1].

    Args:
        timesteps: shape [B, L], in the unit of the scheduler's timesteps.
        grid: the scheduler's sigmas, shape [N + 1].
        config: of the scheduler.

    Raises:
        ValueError: for an option that needs one time a sample.
    """
    if config.prediction_type in DIFFUSION_PREDICTION_TYPES:
        raise ValueError(f"prediction_type={config.prediction_type!r} does not go with per_token_timesteps.")
    for name, value in PER_TOKEN_OPTIONS.items():
        if config[name] != value:
            raise ValueError(f"{name}={config[name]} does not go with per_token_timesteps: set {name}={value}.")
    sigmas = timesteps.to(torch.float32) / config.num_train_timesteps
    below = grid < sigmas.unsqueeze(-1) - 1e-6
    return sigmas.unsqueeze(-1), (below * grid).amax(dim=-1, keepdim=True)


def is_noisiest(timesteps: torch.Tensor) -> torch.Tensor:
    """Whether a token is at its sample's highest time, shape [B, L, 1]: the others hold some encoded picture."""
    return (timesteps == timesteps.amax(dim=-1, keepdim=True)).unsqueeze(-1)
