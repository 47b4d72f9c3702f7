"""Draw all the randomness of one training step in advance, so that the loss is deterministic.

The numbers of a sample depend only on the run's seed and the sample's position in the run, see `randomness.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ...configuration import TwinFlowConfig, TwinFlowConfigError
from ..randomness import BLOCK, Purpose, draw_noise, draw_numbers
from .branches import Branch, Times
from .rotation import BranchRotation


@dataclass(frozen=True)
class Passes:
    """Which passes without gradient a micro-step makes, in addition to the student's pass with gradient.

    Attributes:
        fake: whether the student generates fakes.
        enhance: whether the teacher runs with and without the prompt.
        walk: whether the jumps of the target are made.
        rectify: whether the student runs on both trajectories.
    """

    fake: bool
    enhance: bool
    walk: bool
    rectify: bool


@dataclass
class TrainingDraw:
    """The randomness of one micro-batch of B samples.

    Attributes:
        branch_indices: index of each sample's branch in the method's branches, shape [B].
        samples_of: for each branch, the indices of its samples.
        t: time of each sample, shape [B], in [0, 1].
        r: target time of each sample, shape [B], `0 <= r <= t`.
        sign: +1 for the real trajectory, -1 for the twin's, shape [B].
        noise: noise of `x_t`, shape [B, ...].
        faked: indices of the samples whose data is a fake. With `twinflow_image_free` these are all samples.
        enhanced: indices of the samples whose velocity has guidance built in.
        walked: indices of the samples whose target uses jumps.
        rectified: indices of the samples that are rectified.
        fake_noise: noise from which the fakes are generated, shape [len(faked), ...].
        rectify_noise: noise of the rectification, shape [len(rectified), ...].
        rectify_t: times of the rectification, shape [len(rectified)], in [0, 1].
        passes: the passes to run. They may be more than this micro-batch needs, if all processes must run the same.
        plan: what was decided before the noise was drawn, on the host; `None` if the draw was made in another way.
    """

    branch_indices: torch.Tensor
    samples_of: Sequence[torch.Tensor]
    t: torch.Tensor
    r: torch.Tensor
    sign: torch.Tensor
    noise: torch.Tensor
    faked: torch.Tensor
    enhanced: torch.Tensor
    walked: torch.Tensor
    rectified: torch.Tensor
    fake_noise: torch.Tensor
    rectify_noise: torch.Tensor
    rectify_t: torch.Tensor
    passes: Passes
    plan: "Plan | None" = None

    def on_host(self, name: str, values: str | None = None) -> np.ndarray | None:
        """Return values of some samples on the host, or that of the first sample if there are none.

        Args:
            name: which samples: "faked", "enhanced", "walked" or "rectified".
            values: what of the plan, such as "t". Defaults to the indices of the samples.

        Returns:
            `None` if the draw has no plan.
        """
        if self.plan is None:
            return None
        every = np.arange(len(self.plan.t)) if values is None else getattr(self.plan, values)
        is_chosen = getattr(self.plan, f"is_{name}")
        return every[is_chosen] if is_chosen.any() else every[:1]


@dataclass(frozen=True)
class Plan:
    """Everything about the B samples that is decided before their noise is drawn, in arrays of shape [B]."""

    branch: np.ndarray
    t: np.ndarray
    r: np.ndarray
    sign: np.ndarray
    rectify_t: np.ndarray
    is_faked: np.ndarray
    is_enhanced: np.ndarray
    is_walked: np.ndarray
    is_rectified: np.ndarray

    @property
    def passes(self) -> Passes:
        """The passes that these samples need."""
        needed = (self.is_faked, self.is_enhanced, self.is_walked, self.is_rectified)
        return Passes(*(bool(samples.any()) for samples in needed))


def draw_training_step(
    config: TwinFlowConfig,
    branches: Sequence[Branch],
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
        config: the options.
        branches: the branches of `rotation`, in the same order.
        rotation: assigns a branch to each position.
        positions: position of each of the B samples in the run.
        latent_shape: shape of one sample, without the batch dimension.
        seed: seed of the run.
        device: device of the returned tensors, on which noise is drawn.
        passes_of: positions of the samples of all processes, if all processes must make the same passes. Defaults to
            `positions`.
    """
    plan = plan_samples(config, branches, rotation, positions, seed)
    everyone = plan
    if passes_of is not None:
        everyone = plan_samples(config, branches, rotation, [*positions, *passes_of], seed)
    faked, rectified = plan.is_faked.nonzero()[0], plan.is_rectified.nonzero()[0]
    sent = _sent(
        {
            "branch_indices": plan.branch,
            "by_branch": np.argsort(plan.branch, kind="stable"),
            "t": plan.t,
            "r": plan.r,
            "sign": plan.sign,
            "rectify_t": plan.rectify_t[rectified],
            "faked": faked,
            "enhanced": plan.is_enhanced.nonzero()[0],
            "walked": plan.is_walked.nonzero()[0],
            "rectified": rectified,
        },
        device,
    )
    counts = np.bincount(plan.branch, minlength=len(branches)).tolist()
    where = np.asarray(positions, dtype=np.int64)
    noise_of = partial(draw_noise, shape=latent_shape, seed=seed, device=device)
    return TrainingDraw(
        noise=noise_of(where, purpose=Purpose.NOISE),
        fake_noise=noise_of(where[faked], purpose=Purpose.FAKE_NOISE),
        rectify_noise=noise_of(where[rectified], purpose=Purpose.RECTIFY_NOISE),
        passes=everyone.passes,
        plan=plan,
        samples_of=sent.pop("by_branch").split(counts),
        **sent,
    )


def plan_samples(
    config: TwinFlowConfig,
    branches: Sequence[Branch],
    rotation: BranchRotation,
    positions: Sequence[int],
    seed: int,
) -> Plan:
    """Return the plan of the samples at `positions` of the run."""
    branch = rotation.indices_at(positions)
    beta, u, rectify_t = draw_numbers(positions, seed, lambda block_seed: _numbers(config, block_seed)).T
    drawn = np.minimum(beta * config.twinflow_time_scale, 1.0)
    t, r = np.empty((2, len(branch)), dtype=np.float32)
    for index in np.unique(branch):
        own = branch == index
        t[own], r[own] = _times_of(branches[index], drawn[own], u[own], config)
    low, high = np.float32(config.twinflow_enhanced_low), np.float32(config.twinflow_enhanced_high)

    def of_branch(name: str, dtype: type = bool) -> np.ndarray:
        return np.array([getattr(each, name) for each in branches], dtype=dtype)[branch]

    return Plan(
        branch=branch,
        t=t,
        r=r,
        sign=of_branch("sign", np.float32),
        rectify_t=rectify_t.astype(np.float32),
        is_faked=of_branch("trains_on_fakes") | config.twinflow_image_free,
        is_enhanced=of_branch("is_enhanced") & (low < t) & (t < high) & (config.twinflow_enhanced_ratio > 0),
        is_walked=of_branch("is_walked")
        & (t - r >= np.float32(config.twinflow_delta_t))
        & (config.twinflow_estimate_order > 0),
        is_rectified=of_branch("is_rectified")
        & (config.twinflow_adversarial_enabled and config.twinflow_rectify_weight > 0),
    )


def _times_of(branch: Branch, drawn: np.ndarray, u: np.ndarray, config: TwinFlowConfig) -> Times:
    t, r = branch.times(drawn, u, config)
    if not ((r >= 0) & (r <= t) & (t <= 1)).all():
        raise TwinFlowConfigError(
            f"branch '{branch.name}' returned times that are not valid: its method `times` must return t and r with "
            "0 <= r <= t <= 1."
        )
    return t, r


def _numbers(config: TwinFlowConfig, block_seed: int) -> np.ndarray:
    """Draw a time and two numbers in [0, 1) for each sample of a block, shape [BLOCK, 3]."""
    generator = np.random.default_rng(block_seed)
    beta = generator.beta(config.twinflow_time_alpha, config.twinflow_time_beta, size=BLOCK)
    return np.stack([beta, *generator.random((2, BLOCK))], axis=1)


def _sent(arrays: dict[str, np.ndarray], device: torch.device | str) -> dict[str, torch.Tensor]:
    """Send arrays to the device, with one copy per dtype."""
    sent: dict[str, torch.Tensor] = {}
    for dtype in {array.dtype for array in arrays.values()}:
        chosen = {name: array for name, array in arrays.items() if array.dtype == dtype}
        together = torch.from_numpy(np.concatenate([*chosen.values()])).to(device, non_blocking=True)
        sent |= zip(chosen, together.split([len(array) for array in chosen.values()]))
    return sent
