"""The branches of TwinFlow: at which times each trains its samples, on which data, and towards which target.

Every sample of a batch belongs to one branch. To add a branch, subclass `Branch` and pass an instance:

    TwinFlow(config, branches=[*BRANCHES, MyBranch(share=1.0)])
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...configuration import TwinFlowConfig
from ...flow import clamped_target, interval_weight, rcgm_residual

MULTI_STEP_RATIO = 0.05
Times = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class BranchSamples:
    """What is known of the N samples of a branch when their target is computed; nothing has a gradient.

    Attributes:
        x_t: the points, shape [N, ...].
        t, r: time and target time, shape [N].
        prediction: what the student predicts there, shape [N, ...].
        velocity: noise minus data, with guidance baked in if the branch is enhanced, shape [N, ...]. If training is
            data-free, it is then the frozen teacher's guided velocity.
        jumped: sum of the jumps of the teacher, or of the student if the teacher is frozen, from `t - twinflow_delta_t` to `r`, shape [N, ...]; 0 if it made none.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    r: torch.Tensor
    prediction: torch.Tensor
    velocity: torch.Tensor
    jumped: torch.Tensor


class Branch(ABC):
    """One way to train a sample.

    Args:
        share: share of the batch; it is compared with the shares of the other branches. The default is the option
            `twinflow_<name>_share`, which the built-in branches have.

    Attributes:
        name: the name in logs.
        sign: +1 for the real trajectory, -1 for the twin's.
        trains_on_fakes: whether the student's own one-step images replace the data.
        is_enhanced: whether guidance is baked into the velocity, for times between `twinflow_enhanced_low` and
            `twinflow_enhanced_high`.
        is_walked: whether jumps that are longer than `twinflow_delta_t` are made for the target.
        is_rectified: whether the predicted data is moved towards where the twin's velocity equals the real one.
    """

    name: str
    sign: float = 1.0
    trains_on_fakes: bool = False
    is_enhanced: bool = True
    is_walked: bool = True
    is_rectified: bool = False

    def __init__(self, share: float | None = None) -> None:
        self._share = share

    def share(self, config: TwinFlowConfig) -> float:
        """Share of the batch, at least 0."""
        return config.branch_shares[self.name] if self._share is None else self._share

    @abstractmethod
    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        """Time and target time of N samples, `0 <= r <= t <= 1`, computed on the host.

        Args:
            t: drawn times in [0, 1], shape [N].
            u: uniform numbers in [0, 1), shape [N].
        """

    def target(self, samples: BranchSamples, config: TwinFlowConfig) -> torch.Tensor:
        """What the prediction is compared with, shape [N, ...]: by default the target of RCGM.

        The whole jump must equal a step of length delta along the velocity, then the teacher's jumps. The difference
        is clamped.
        """
        residual = samples.prediction - samples.velocity
        if config.twinflow_estimate_order > 0:
            residual = rcgm_residual(
                samples.prediction,
                samples.velocity,
                samples.jumped,
                samples.t,
                samples.r,
                delta=config.twinflow_delta_t,
            )
        return clamped_target(samples.prediction, residual, config.twinflow_target_clamp)

    def weight(self, t: torch.Tensor, r: torch.Tensor, config: TwinFlowConfig) -> torch.Tensor:
        """Weight of each sample's loss, shape [N]: larger for shorter jumps."""
        return interval_weight(t, r)


class OneStep(Branch):
    """From noise to data in one jump."""

    name = "one_step"
    is_rectified = True

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return np.ones_like(t), np.zeros_like(t)


class FewStep(Branch):
    """From a drawn time to data."""

    name = "few_step"

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return t, np.zeros_like(t)


class AnyStep(Branch):
    """Jumps of every length."""

    name = "any_step"

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return t, t - t * (u * config.twinflow_consistency_ratio)


class MultiStep(Branch):
    """Short jumps: nearly the velocity field of the base."""

    name = "multi_step"

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return t, t - t * (u * min(MULTI_STEP_RATIO, config.twinflow_consistency_ratio))


class Adversarial(Branch):
    """The twin: the velocity field of the student's own fakes, at negative sign."""

    name = "adversarial"
    sign = -1.0
    trains_on_fakes = True
    is_enhanced = False
    is_walked = False

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return t, t

    def target(self, samples: BranchSamples, config: TwinFlowConfig) -> torch.Tensor:
        return samples.velocity

    def weight(self, t: torch.Tensor, r: torch.Tensor, config: TwinFlowConfig) -> torch.Tensor:
        return torch.full_like(t, config.twinflow_adversarial_weight)


BRANCHES: Sequence[Branch] = (OneStep(), FewStep(), AnyStep(), MultiStep(), Adversarial())
"""The branches of TwinFlow; the options give each its share, which may be 0."""
