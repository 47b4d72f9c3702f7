"""All the randomness of one training step, drawn before it: after the draw the loss is deterministic.

What a sample gets depends on the run's seed and the sample's position in the run alone, see `blocks.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ...configuration import TwinFlowConfig
from ..randomness import Purpose, draw_noise
from .branches import BRANCHES, Branch, BranchRotation
from .plan import plan_samples


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
        branch_indices: index in `BRANCHES` of each sample's branch, shape [B].
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

    branch_indices: torch.Tensor
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

    @property
    def branches(self) -> list[Branch]:
        """Branch of each sample; on a device, waits for it."""
        return [BRANCHES[index] for index in self.branch_indices.tolist()]


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
    plan = plan_samples(config, rotation, positions, seed)
    everyone = plan if passes_of is None else plan_samples(config, rotation, [*positions, *passes_of], seed)
    one_step, faked = plan.is_one_step.nonzero()[0], plan.is_faked.nonzero()[0]
    host = {
        "branch_indices": plan.branch,
        "t": plan.t,
        "r": plan.r,
        "sign": np.where(plan.is_real, 1, -1).astype(np.float32),
        "rectify_t": plan.rectify_t[one_step],
        "one_step": one_step,
        "adversarial": (~plan.is_real).nonzero()[0],
        "faked": faked,
        "real": plan.is_real.nonzero()[0],
        "enhanced": plan.is_enhanced.nonzero()[0],
        "rollout": plan.is_rollout.nonzero()[0],
    }
    positions = np.asarray(positions, dtype=np.int64)
    noise_of = partial(draw_noise, shape=latent_shape, seed=seed, device=device)
    return TrainingDraw(
        noise=noise_of(positions, purpose=Purpose.NOISE),
        fake_noise=noise_of(positions[faked], purpose=Purpose.FAKE_NOISE),
        rectify_noise=noise_of(positions[one_step], purpose=Purpose.RECTIFY_NOISE),
        passes=Passes(
            fake=bool(everyone.is_faked.any()),
            enhance=bool(everyone.is_enhanced.any()),
            rollout=bool(everyone.is_rollout.any()),
            one_step=bool(everyone.is_one_step.any()),
        ),
        **_sent(host, device),
    )


def _sent(arrays: dict[str, np.ndarray], device: torch.device | str) -> dict[str, torch.Tensor]:
    """The arrays on the device, all of a type in one copy."""
    sent = {}
    for dtype in {array.dtype for array in arrays.values()}:
        chosen = {name: array for name, array in arrays.items() if array.dtype == dtype}
        together = torch.from_numpy(np.concatenate([*chosen.values()])).to(device, non_blocking=True)
        sent |= zip(chosen, together.split([len(array) for array in chosen.values()]))
    return sent
