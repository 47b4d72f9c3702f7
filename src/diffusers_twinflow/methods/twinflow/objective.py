"""The TwinFlow loss of one micro-batch, which depends only on the data, the draw and the networks."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Any

import numpy as np
import torch

from ...conditions import Condition, VelocityFunction, expand, take
from ...configuration import TwinFlowConfig
from ...flow import (
    barron_loss,
    clamped_target,
    enhance_velocity,
    guided_velocity,
    interpolate,
    jump_times,
    rcgm_jump,
    recover,
    squared_error,
    velocity,
)
from ...models.known_times import known_times
from ..base import LossOutput, Networks, TeacherPasses
from ..rng_snapshot import RNGSnapshot
from .branches import Branch, BranchSamples
from .draw import TrainingDraw
from .pairs import PairedPasses, at_least_float32

PAIR_AS_ONE = 16
"""Maximum batch for which the rectify pair is one pass. It runs while the student's activations fill the memory."""


class TwinFlowObjective:
    """Computes the losses of all branches and of the rectification, with one student pass that has a gradient.

    Args:
        config: the options.
        branches: the branches, which provide targets and weights.
    """

    def __init__(self, config: TwinFlowConfig, branches: Sequence[Branch]) -> None:
        self.config, self.branches = config, branches
        self.guidance_passes = PairedPasses(config.twinflow_split_passes)
        self.rectify_passes = PairedPasses(config.twinflow_split_passes)
        self.teaches_fakes = config.twinflow_image_free or any(
            branch.trains_on_fakes and (branch.is_enhanced or branch.is_walked) for branch in branches
        )

    def __call__(
        self, latents: torch.Tensor, condition: Condition, draw: TrainingDraw, networks: Networks
    ) -> LossOutput:
        """Compute the loss of one micro-batch.

        The loss is a sum over samples divided by B. So the mean over accumulation steps and processes equals the loss
        of the whole batch if all micro-batches have the same size, whatever branches they contain.

        Args:
            latents: data, shape [B, ...].
            condition: condition of the velocity functions, of batch B.
            draw: the randomness, see `draw_training_step`.
            networks: the networks. The student is called once with gradient, on the whole batch. `unconditional` is
                required if `twinflow_enhanced_ratio` is above 0.
        """
        student = networks.student_without_grad
        x_t, v = interpolate(latents, draw.noise, draw.t), velocity(latents, draw.noise)
        snapshot = RNGSnapshot(latents.device)
        with torch.no_grad():  # before the student's pass, because its activations fill the memory
            if self.teaches_fakes:
                x_t, v = self._with_fakes(x_t, v, condition, draw, student, snapshot)
            v, jumped = self._teach(x_t, v, condition, draw, networks, snapshot)
            if (
                not self.teaches_fakes
            ):  # after the teacher, so that the weights of each network are merged once per step
                x_t, v = self._with_fakes(x_t, v, condition, draw, student, snapshot)
        with known_times(None if draw.plan is None else draw.plan.t):
            prediction = at_least_float32(networks.student(x_t, draw.t, draw.r, draw.sign, condition))
        target, weight = self._targets(x_t, prediction.detach(), v, jumped, draw)

        per_sample = self._sample_loss(prediction, target, networks.weights) * weight
        loss = per_sample.mean()
        rectify = per_sample.new_zeros(0)
        if draw.passes.rectify:
            rectified = prediction[draw.rectified]
            with torch.no_grad():
                rectify_target = self._rectify_target(prediction, x_t, condition, draw, student, snapshot)
            rectify = self._sample_loss(rectified, rectify_target, weights_of(networks.weights, draw.rectified))
            loss = loss + self.config.twinflow_rectify_weight * rectify.sum() / len(latents)
        return LossOutput(loss, per_sample.detach(), {"rectify": rectify.detach()}, draw.branch_indices)

    def _sample_loss(
        self, prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        if self.config.twinflow_loss == "l2":
            return squared_error(prediction, target, weights)
        alpha, c = self.config.twinflow_barron_alpha, self.config.twinflow_barron_scale
        return barron_loss(prediction, target, alpha=alpha, c=c, weights=weights)

    def _with_fakes(
        self,
        x_t: torch.Tensor,
        v: torch.Tensor,
        condition: Condition,
        draw: TrainingDraw,
        student: VelocityFunction,
        snapshot: RNGSnapshot,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `x_t` and `v` with the student's one-step images as the data of the samples in `draw.faked`."""
        if not draw.passes.fake:
            return x_t, v
        faked = at_least_one(draw.faked)
        noise = draw.fake_noise if len(draw.faked) else draw.noise[faked]
        ones, prompts = torch.ones_like(draw.t[faked]), take(condition, faked, draw.on_host("faked"))
        with snapshot.replay(), known_times(np.ones(len(faked), dtype=np.float32)):
            torch.rand(1, device=noise.device)  # for other dropout masks than those of the student's pass
            prediction = at_least_float32(student(noise, ones, torch.zeros_like(ones), ones, prompts))
        fakes, _ = recover(noise, ones, prediction)
        fakes, noise, t = fakes[: len(draw.faked)].to(v.dtype), draw.noise[draw.faked], draw.t[draw.faked]
        x_t = x_t.index_copy(0, draw.faked, interpolate(fakes, noise, t))
        return x_t, v.index_copy(0, draw.faked, velocity(fakes, noise))

    def _teach(
        self,
        x_t: torch.Tensor,
        v: torch.Tensor,
        condition: Condition,
        draw: TrainingDraw,
        networks: Networks,
        snapshot: RNGSnapshot,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the velocity with guidance built in, and the sum of the jumps of each sample in `draw.walked`."""
        passes, jumped = draw.passes, v[:0]
        teacher_walks = passes.walk and not self.config.has_frozen_teacher
        with activated(networks.teacher, passes.enhance or teacher_walks) as teacher:
            if passes.enhance:
                v = self._enhanced(x_t, v, condition, networks.unconditional, draw, teacher, snapshot)
            if teacher_walks:
                jumped = self._jumped(x_t, v, condition, draw, teacher, snapshot)
        if passes.walk and not teacher_walks:  # a frozen base has never learned a target time
            jumped = self._jumped(x_t, v, condition, draw, networks.student_without_grad, snapshot)
        return v, jumped

    def _jumped(
        self,
        x_t: torch.Tensor,
        v: torch.Tensor,
        condition: Condition,
        draw: TrainingDraw,
        walker: VelocityFunction,
        snapshot: RNGSnapshot,
    ) -> torch.Tensor:
        """Return the sum of the jumps of each sample in `draw.walked`."""
        chosen = at_least_one(draw.walked)
        positive, prompts = draw.sign[chosen].abs(), take(condition, chosen, draw.on_host("walked"))
        order, delta = self.config.twinflow_estimate_order, self.config.twinflow_delta_t
        t, r = draw.on_host("walked", "t"), draw.on_host("walked", "r")
        on_host: Iterator[np.ndarray | None] = repeat(None)
        if t is not None and r is not None:
            jumps = jump_times(torch.from_numpy(t), torch.from_numpy(r), order=order, delta=delta)
            on_host = (tau.numpy() for tau, _ in jumps)

        def walk(x: torch.Tensor, tau: torch.Tensor, tau_next: torch.Tensor) -> torch.Tensor:
            with snapshot.replay(), known_times(next(on_host)):
                return at_least_float32(walker(x, tau, tau_next, positive, prompts))

        return rcgm_jump(
            walk,
            v[chosen],
            x_t[chosen],
            draw.t[chosen],
            draw.r[chosen],
            order=order,
            delta=delta,
        )[: len(draw.walked)]

    @torch.no_grad()
    def _targets(
        self, x_t: torch.Tensor, prediction: torch.Tensor, v: torch.Tensor, jumped: torch.Tensor, draw: TrainingDraw
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the targets and the loss weights of all samples."""
        jumped = torch.zeros_like(v).index_copy(0, draw.walked, jumped)
        target, weight = torch.empty_like(v), torch.empty_like(draw.t)
        for branch, own in zip(self.branches, draw.samples_of):
            if not len(own):
                continue
            t, r = draw.t[own], draw.r[own]
            samples = BranchSamples(x_t[own], t, r, prediction[own], v[own], jumped[own])
            target[own] = branch.target(samples, self.config)
            weight[own] = branch.weight(t, r, self.config)
        return target, weight

    def _enhanced(
        self,
        x_t: torch.Tensor,
        v: torch.Tensor,
        condition: Condition,
        unconditional: Condition | None,
        draw: TrainingDraw,
        teacher: VelocityFunction,
        snapshot: RNGSnapshot,
    ) -> torch.Tensor:
        """Return the velocity with guidance built in. In data-free training it is the teacher's guided velocity."""
        if unconditional is None:
            raise ValueError(
                "twinflow_enhanced_ratio above 0 needs the condition of the empty prompt: set `networks.unconditional`."
            )
        chosen = at_least_one(draw.enhanced)
        signs, known = draw.sign[chosen], draw.on_host("enhanced")
        prompts, empty = (take(each, chosen, known) for each in (condition, expand(unconditional, len(x_t))))
        with known_times(draw.on_host("enhanced", "t")):
            pair = self.guidance_passes(
                teacher, x_t[chosen], draw.t[chosen], (signs, signs), (prompts, empty), snapshot
            )
        ratio = self.config.twinflow_enhanced_ratio
        if self.config.is_data_free:
            enhanced = guided_velocity(*pair, ratio)
        else:
            enhanced = enhance_velocity(v[chosen], *pair, ratio)
        return v.index_copy(0, draw.enhanced, enhanced[: len(draw.enhanced)].to(v.dtype))

    def _rectify_target(
        self,
        prediction: torch.Tensor,
        x_t: torch.Tensor,
        condition: Condition,
        draw: TrainingDraw,
        student: VelocityFunction,
        snapshot: RNGSnapshot,
    ) -> torch.Tensor:
        """Return targets that move one-step predictions against the difference of the twin's and the real velocity."""
        rectified, count = at_least_one(draw.rectified), len(draw.rectified)
        prediction = prediction[rectified]
        x_hat, _ = recover(x_t[rectified], draw.t[rectified], prediction)
        noise, t = (draw.rectify_noise, draw.rectify_t) if count else (draw.noise[rectified], draw.t[rectified])
        positive, prompts = torch.ones_like(t), take(condition, rectified, draw.on_host("rectified"))
        points = interpolate(x_hat, noise, t)
        split = len(x_t) > PAIR_AS_ONE  # decided by the batch, because `count` may differ between processes
        signs, conditions = (-positive, positive), (prompts, prompts)
        with known_times(draw.on_host("rectified", "rectify_t" if count else "t")):
            twin, real = self.rectify_passes(student, points, t, signs, conditions, snapshot, split)
        return clamped_target(prediction, twin - real, 1.0)[:count]


def activated(teacher: TeacherPasses | None, is_needed: bool) -> AbstractContextManager[Any]:
    """Return the teacher's context, or one that does nothing if no pass needs the teacher."""
    if not is_needed:
        return nullcontext()
    if teacher is None:
        raise ValueError("TwinFlow needs a teacher: set `networks.teacher` to the result of `build_teacher`.")
    return teacher.activated()


def weights_of(weights: torch.Tensor | None, indices: torch.Tensor) -> torch.Tensor | None:
    """Return the loss weights of some samples of a batch. If there is one row of weights, all samples share it."""
    return weights if weights is None or len(weights) == 1 else weights[indices]


def at_least_one(indices: torch.Tensor) -> torch.Tensor:
    """Return the indices, or the index of the first sample if there are none. Its result is then not used."""
    return indices if len(indices) else indices.new_zeros(1)
