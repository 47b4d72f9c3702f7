"""All the randomness of one training step, drawn before it: after the draw the loss is deterministic.

Every sample draws from generators seeded by the run's seed and the sample's position in the run. A run gives the same
numbers however its samples are spread over micro-batches and processes, and after a resume.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..configuration import TwinFlowConfig
from .branches import Branch, BranchRotation

MULTI_STEP_RATIO = 0.05


@dataclass
class TrainingDraw:
    """What one micro-batch of B samples trains on.

    Attributes:
        branches: branch of each sample.
        t: time of each sample, shape [B], in [0, 1].
        r: target time of each sample, shape [B], `0 <= r <= t`.
        sign: +1 on the real trajectory, -1 on the twin's, shape [B].
        noise: shape [B, ...], for `x_t`.
        one_step, adversarial: indices of the samples of those branches.
        faked: indices of the samples whose data is a fake of the student's: the adversarial, or all if image-free.
        real: indices of all samples but the adversarial ones.
        enhanced: indices of the samples whose target has guidance baked in.
        rollout: indices of the samples whose jump is longer than the first step, so that the teacher walks it.
        fake_noise: shape [len(faked), ...], that the fakes are made of.
        rectify_noise: shape [len(one_step), ...].
        rectify_t: shape [len(one_step)], in [0, 1].
    """

    branches: list[Branch]
    t: torch.Tensor
    r: torch.Tensor
    sign: torch.Tensor
    noise: torch.Tensor
    one_step: torch.Tensor
    adversarial: torch.Tensor
    faked: torch.Tensor
    real: torch.Tensor
    enhanced: torch.Tensor
    rollout: torch.Tensor
    fake_noise: torch.Tensor
    rectify_noise: torch.Tensor
    rectify_t: torch.Tensor


def draw_training_step(
    config: TwinFlowConfig,
    rotation: BranchRotation,
    positions: Sequence[int],
    latent_shape: Sequence[int],
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> TrainingDraw:
    """Draw times, branches and noise for the samples at `positions`.

    Args:
        positions: position in the run of each of the B samples.
        latent_shape: shape of one sample, without the batch dimension.
        seed: seed of the run.
        device: where the tensors are wanted; noise is drawn there.
    """
    branches = rotation.at(positions)
    generators = [np.random.default_rng((seed, position)) for position in positions]
    times = [_draw_times(config, branch, generator) for branch, generator in zip(branches, generators)]
    t, r, rectify_t = torch.tensor(times, dtype=torch.float32).unbind(1)
    is_real = [branch is not Branch.ADVERSARIAL for branch in branches]
    low, high = config.twinflow_enhanced_low, config.twinflow_enhanced_high
    in_range = ((t > low) & (t < high)).tolist()
    is_long = (t - r >= config.twinflow_delta_t).tolist()

    def indices(chosen) -> torch.Tensor:
        return torch.tensor([i for i, keep in enumerate(chosen) if keep], dtype=torch.long)

    one_step = indices(branch is Branch.ONE_STEP for branch in branches)
    adversarial = indices(not real for real in is_real)
    faked = indices(config.twinflow_image_free or not real for real in is_real)
    host = {
        "t": t,
        "r": r,
        "sign": torch.tensor([1.0 if real else -1.0 for real in is_real]),
        "rectify_t": rectify_t[one_step],
        "one_step": one_step,
        "adversarial": adversarial,
        "faked": faked,
        "real": indices(is_real),
        "enhanced": indices(a and b for a, b in zip(is_real, in_range)),
        "rollout": indices(a and b for a, b in zip(is_real, is_long)),
    }
    noises = [_draw_noises(latent_shape, generator, device) for generator in generators]
    return TrainingDraw(
        branches=branches,
        noise=_stack(noises, range(len(noises)), 0, latent_shape, device),
        fake_noise=_stack(noises, faked.tolist(), 1, latent_shape, device),
        rectify_noise=_stack(noises, one_step.tolist(), 2, latent_shape, device),
        **{name: tensor.to(device, non_blocking=True) for name, tensor in host.items()},
    )


def _draw_times(config: TwinFlowConfig, branch: Branch, generator: np.random.Generator) -> tuple[float, float, float]:
    beta = generator.beta(config.twinflow_time_alpha, config.twinflow_time_beta)
    t = min(beta * config.twinflow_time_scale, 1.0)
    jump, rectify_t = generator.random(2)
    ratio = config.twinflow_consistency_ratio
    if branch is Branch.ONE_STEP:
        t, r = 1.0, 0.0
    elif branch is Branch.FEW_STEP:
        r = 0.0
    elif branch is Branch.ANY_STEP:
        r = t - jump * t * ratio
    elif branch is Branch.MULTI_STEP:
        r = t - jump * t * min(MULTI_STEP_RATIO, ratio)
    else:
        r = t
    return t, r, rectify_t


def _draw_noises(shape: Sequence[int], generator: np.random.Generator, device: torch.device | str):
    """A function that draws the sample's noise of each purpose (0 its own, 1 its fake's, 2 rectification)."""
    seeds = generator.integers(2**63, size=3).tolist()

    def draw(purpose: int) -> torch.Tensor:
        torch_generator = torch.Generator(device).manual_seed(seeds[purpose])
        return torch.randn(tuple(shape), generator=torch_generator, device=device)

    return draw


def _stack(draws: list, indices: Sequence[int], purpose: int, shape: Sequence[int], device) -> torch.Tensor:
    if len(indices) == 0:
        return torch.empty((0, *shape), device=device)
    return torch.stack([draws[index](purpose) for index in indices])
