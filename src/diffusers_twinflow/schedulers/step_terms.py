"""The arithmetic of a step, as sums of tensors whose weights do not depend on the values of the tensors."""

from __future__ import annotations  # torch.compile cannot trace the annotations of a function inside a function

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..diff2flow import DIFFUSION_PREDICTION_TYPES

Number = float | torch.Tensor
Term = tuple[torch.Tensor, Number]

# The option values that `per_token_timesteps` requires.
PER_TOKEN_OPTIONS = {
    "sampling_order": 1,
    "extrapolation_ratio": 0,
    "squeeze_target_time": False,
    "invert_sigmas": False,
}


class Evaluation(NamedTuple):
    """One call of the model: its input, output and sigma, and the sign of its output.

    The sign is 1 if the output is noise minus data, and -1 if it is data minus noise.
    """

    sample: torch.Tensor
    model_output: torch.Tensor
    sigma: float | torch.Tensor
    sign: float


def sde_ratio(sigma: Number, sigma_next: Number) -> Number:
    """Return the share of fresh noise for `stochastic_ratio="sde"`, for numbers or tensors.

    It is `min(1, 2 * sigma * (sigma - sigma_next) / sigma_next**2)`.
    """
    if isinstance(sigma, torch.Tensor) and isinstance(sigma_next, torch.Tensor):
        return (2 * sigma * (sigma - sigma_next) / sigma_next.square().clamp_min(1e-12)).clamp_max(1)
    return min(1.0, 2 * sigma * (sigma - sigma_next) / sigma_next**2) if sigma_next > 0 else 1.0


def data_terms(here: Evaluation) -> list[Term]:
    """Return the terms of the clean sample that an evaluation predicts."""
    return [(here.sample, 1.0), (here.model_output, -here.sign * here.sigma)]


def prediction_terms(
    here: Evaluation, sigma_next: Number, ratio: Number, last: Evaluation | None, extrapolation: float
) -> list[Term]:
    """Return the deterministic part of a step: `(1 - sigma_next) * x_hat + sigma_next * sqrt(1 - ratio) * z_hat`.

    Args:
        here: the evaluation at which the step starts.
        sigma_next: the sigma at which the step ends.
        ratio: share of fresh noise, in [0, 1].
        last: the previous evaluation, from which `x_hat` and `z_hat` are extrapolated; `None` for no extrapolation.
        extrapolation: strength of the extrapolation, in [0, 1].
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
    """Return the second-order correction of the step from `start` to `here`.

    It repeats the step with the mean of the noise predicted at `start` and at `here`.
    """
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
    """Return the sum of tensors times their weights, with one kernel per term. Weights are numbers or broadcast."""
    (first, scale), *others = terms
    total = first if isinstance(scale, float) and scale == 1 else first * scale
    for tensor, weight in others:
        if isinstance(weight, torch.Tensor):
            total = torch.addcmul(total, tensor.to(total.dtype), weight)
        else:
            total = torch.add(total, tensor, alpha=weight)
    return total


def per_token_sigmas(timesteps: torch.Tensor, grid: torch.Tensor, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's sigma and the next lower sigma of the grid, both of shape [B, L, 1].

    Args:
        timesteps: shape [B, L], in the unit of the scheduler's timesteps.
        grid: the scheduler's sigmas, shape [N + 1].
        config: config of the scheduler.

    Raises:
        ValueError: if an option needs one time per sample.
    """
    if config.prediction_type in DIFFUSION_PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type={config.prediction_type!r} cannot be combined with per_token_timesteps, which need a "
            "model that predicts a velocity."
        )
    for name, value in PER_TOKEN_OPTIONS.items():
        if config[name] != value:
            raise ValueError(f"{name}={config[name]} cannot be combined with per_token_timesteps: set {name}={value}.")
    sigmas = timesteps.to(torch.float32) / config.num_train_timesteps
    below = grid < sigmas.unsqueeze(-1) - 1e-6
    return sigmas.unsqueeze(-1), (below * grid).amax(dim=-1, keepdim=True)


def is_noisiest(timesteps: torch.Tensor) -> torch.Tensor:
    """Whether each token is at its sample's highest time, shape [B, L, 1]. Other tokens contain an encoded image."""
    return (timesteps == timesteps.amax(dim=-1, keepdim=True)).unsqueeze(-1)
