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


@dataclass(frozen=True)
class Passes:
    """Which passes without gradient a micro-step makes, besides those of the student that trains.

    Attributes:
        fake: the student's, for the fakes.
        enhance: the teacher's with and without the prompt.
        rollout: the teacher's along the jumps.
        one_step: the student's on both trajectories, for rectification.
    """

    fake: bool
    enhance: bool
    rollout: bool
    one_step: bool


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
        passes: what to run; more than this micro-batch needs where all processes must run the same.
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
    passes: Passes


@dataclass(frozen=True)
class SamplePlan:
    """What is drawn for one sample before its noise."""

    branch: Branch
    t: float
    r: float
    rectify_t: float
    is_faked: bool
    is_enhanced: bool
    is_rollout: bool


def draw_training_step(
    config: TwinFlowConfig,
    rotation: BranchRotation,
    positions: Sequence[int],
    latent_shape: Sequence[int],
    *,
    seed: int,
    device: torch.device | str = "cpu",
    passes_of: Sequence[int] | None = None,
) -> TrainingDraw:
    """Draw times, branches and noise for the samples at `positions`.

    Args:
        positions: position in the run of each of the B samples.
        latent_shape: shape of one sample, without the batch dimension.
        seed: seed of the run.
        device: where the tensors are wanted; noise is drawn there.
        passes_of: positions, of all processes, whose passes are to be made; by default those of `positions`.
    """
    generators = [np.random.default_rng((seed, position)) for position in positions]
    plans = [_plan(config, branch, generator) for branch, generator in zip(rotation.at(positions), generators)]
    others = passes_of if passes_of is not None else []
    all_plans = plans + [
        _plan(config, branch, np.random.default_rng((seed, position)))
        for branch, position in zip(rotation.at(others), others)
    ]

    def indices(chosen) -> torch.Tensor:
        return torch.tensor([i for i, keep in enumerate(chosen) if keep], dtype=torch.long)

    times = torch.tensor([(plan.t, plan.r, plan.rectify_t) for plan in plans], dtype=torch.float32)
    is_real = [plan.branch is not Branch.ADVERSARIAL for plan in plans]
    one_step = indices(plan.branch is Branch.ONE_STEP for plan in plans)
    faked = indices(plan.is_faked for plan in plans)
    host = {
        "t": times[:, 0],
        "r": times[:, 1],
        "sign": torch.tensor([1.0 if real else -1.0 for real in is_real]),
        "rectify_t": times[one_step, 2],
        "one_step": one_step,
        "adversarial": indices(not real for real in is_real),
        "faked": faked,
        "real": indices(is_real),
        "enhanced": indices(plan.is_enhanced for plan in plans),
        "rollout": indices(plan.is_rollout for plan in plans),
    }
    noises = [_draw_noises(latent_shape, generator, device) for generator in generators]
    return TrainingDraw(
        branches=[plan.branch for plan in plans],
        noise=_stack(noises, range(len(noises)), 0, latent_shape, device),
        fake_noise=_stack(noises, faked.tolist(), 1, latent_shape, device),
        rectify_noise=_stack(noises, one_step.tolist(), 2, latent_shape, device),
        passes=Passes(
            fake=any(plan.is_faked for plan in all_plans),
            enhance=any(plan.is_enhanced for plan in all_plans),
            rollout=any(plan.is_rollout for plan in all_plans),
            one_step=any(plan.branch is Branch.ONE_STEP for plan in all_plans),
        ),
        **{name: tensor.to(device, non_blocking=True) for name, tensor in host.items()},
    )


def _plan(config: TwinFlowConfig, branch: Branch, generator: np.random.Generator) -> SamplePlan:
    t, r, rectify_t = map(np.float32, _draw_times(config, branch, generator))
    low, high = np.float32(config.twinflow_enhanced_low), np.float32(config.twinflow_enhanced_high)
    is_real = branch is not Branch.ADVERSARIAL
    return SamplePlan(
        branch=branch,
        t=float(t),
        r=float(r),
        rectify_t=float(rectify_t),
        is_faked=config.twinflow_image_free or not is_real,
        is_enhanced=is_real and bool(low < t < high),
        is_rollout=is_real and bool(t - r >= np.float32(config.twinflow_delta_t)),
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
