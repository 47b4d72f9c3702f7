"""The branches of TwinFlow. A branch decides the times, the data and the target of its samples.

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
    """The inputs of `Branch.target` for the N samples of a branch, without gradients.

    Attributes:
        x_t: the noisy samples, shape [N, ...].
        t, r: time and target time, shape [N].
        prediction: the student's prediction at `x_t`, shape [N, ...].
        velocity: noise minus data, shape [N, ...], with guidance built in if the branch is enhanced. In data-free
            training an enhanced branch gets the frozen teacher's guided velocity instead.
        jumped: sum of the jumps from `t - twinflow_delta_t` to `r`, shape [N, ...]; 0 without jumps. The teacher makes
            them, or the student if the teacher is frozen.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    r: torch.Tensor
    prediction: torch.Tensor
    velocity: torch.Tensor
    jumped: torch.Tensor


class Branch(ABC):
    """Base class of a branch, one way to train a sample.

    Args:
        share: share of the batch, relative to the shares of the other branches. The default is the option
            `twinflow_<name>_share`, which exists for the built-in branches.

    Attributes:
        name: the name in logs.
        sign: +1 for the real trajectory, -1 for the twin's.
        trains_on_fakes: whether the student's one-step images replace the data.
        is_enhanced: whether guidance is built into the velocity, for times between `twinflow_enhanced_low` and
            `twinflow_enhanced_high`.
        is_walked: whether the target uses jumps, for samples whose whole jump is at least `twinflow_delta_t` long.
        is_rectified: whether the rectification loss applies, which reduces the difference between the twin's velocity
            and the real one at the predicted data.
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
        """Return the share of the batch, at least 0."""
        return config.branch_shares[self.name] if self._share is None else self._share

    @abstractmethod
    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        """Choose the times of N samples, on the CPU.

        Args:
            t: drawn times in [0, 1], shape [N].
            u: uniform numbers in [0, 1), shape [N].
            config: the options.

        Returns:
            Time `t` and target time `r`, each of shape [N], with `0 <= r <= t <= 1`.
        """

    def target(self, samples: BranchSamples, config: TwinFlowConfig) -> torch.Tensor:
        """Return the target of the prediction, shape [N, ...]. The default is the target of RCGM.

        With this target, the whole jump equals a step of length `twinflow_delta_t` along the velocity, plus the jumps
        in `samples.jumped`. The difference between prediction and target is clamped.
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
        """Return the weight of each sample's loss, shape [N]. By default it is larger for shorter jumps."""
        return interval_weight(t, r)


class OneStep(Branch):
    """Trains the jump from noise to data."""

    name = "one_step"
    is_rectified = True

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return np.ones_like(t), np.zeros_like(t)


class FewStep(Branch):
    """Trains jumps from any time to data."""

    name = "few_step"

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return t, np.zeros_like(t)


class AnyStep(Branch):
    """Trains jumps of any length."""

    name = "any_step"

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return t, t - t * (u * config.twinflow_consistency_ratio)


class MultiStep(Branch):
    """Trains short jumps, which are nearly ordinary flow matching."""

    name = "multi_step"

    def times(self, t: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
        return t, t - t * (u * min(MULTI_STEP_RATIO, config.twinflow_consistency_ratio))


class Adversarial(Branch):
    """Trains the twin, with negative sign: the velocity field of the student's one-step images."""

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
"""The branches of TwinFlow. The options set the share of each, which may be 0."""
