"""When each sample is trained: its branch and times, drawn before its noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...configuration import TwinFlowConfig
from ..randomness import BLOCK, draw_numbers
from .branches import BRANCHES, Branch, BranchRotation

MULTI_STEP_RATIO = 0.05


@dataclass(frozen=True)
class Plan:
    """Arrays of shape [B].

    Attributes:
        branch: index in `BRANCHES`.
        t, r, rectify_t: times, float32.
        is_one_step, is_real, is_faked, is_enhanced, is_rollout: as the indices of `TrainingDraw`.
    """

    branch: np.ndarray
    t: np.ndarray
    r: np.ndarray
    rectify_t: np.ndarray
    is_one_step: np.ndarray
    is_real: np.ndarray
    is_faked: np.ndarray
    is_enhanced: np.ndarray
    is_rollout: np.ndarray


def plan_samples(config: TwinFlowConfig, rotation: BranchRotation, positions: Sequence[int], seed: int) -> Plan:
    """The plan of the samples at `positions` of the run."""
    branch = rotation.indices_at(positions)
    is_of = {member: branch == index for index, member in enumerate(BRANCHES)}
    beta, jump, rectify_t = draw_numbers(positions, seed, lambda block_seed: _numbers(config, block_seed)).T
    t = np.where(is_of[Branch.ONE_STEP], 1.0, np.minimum(beta * config.twinflow_time_scale, 1.0))
    t, r = (times.astype(np.float32) for times in (t, t - t * _jump_ratio(config, is_of, jump)))
    is_real = ~is_of[Branch.ADVERSARIAL]
    low, high = np.float32(config.twinflow_enhanced_low), np.float32(config.twinflow_enhanced_high)
    return Plan(
        branch=branch,
        t=t,
        r=r,
        rectify_t=rectify_t.astype(np.float32),
        is_one_step=is_of[Branch.ONE_STEP],
        is_real=is_real,
        is_faked=~is_real | config.twinflow_image_free,
        is_enhanced=is_real & (low < t) & (t < high),
        is_rollout=is_real & (t - r >= np.float32(config.twinflow_delta_t)),
    )


def _numbers(config: TwinFlowConfig, block_seed: int) -> np.ndarray:
    """Of each sample of a block a time and two numbers in [0, 1), shape [BLOCK, 3]."""
    generator = np.random.default_rng(block_seed)
    beta = generator.beta(config.twinflow_time_alpha, config.twinflow_time_beta, size=BLOCK)
    return np.stack([beta, *generator.random((2, BLOCK))], axis=1)


def _jump_ratio(config: TwinFlowConfig, is_of: dict[Branch, np.ndarray], jump: np.ndarray) -> np.ndarray:
    """How much of the way from t to 0 each sample jumps, in [0, 1]."""
    ratio = config.twinflow_consistency_ratio
    return np.select(
        [is_of[Branch.ONE_STEP] | is_of[Branch.FEW_STEP], is_of[Branch.ANY_STEP], is_of[Branch.MULTI_STEP]],
        [1.0, jump * ratio, jump * min(MULTI_STEP_RATIO, ratio)],
        default=0.0,
    )
