"""The TwinFlow loss of one micro-batch: a deterministic function of the data, the draw and the networks."""

from contextlib import nullcontext

import torch

from ...conditions import Condition, VelocityFunction, concatenate, expand, take
from ...configuration import TwinFlowConfig
from ...flow import (
    barron_loss,
    clamped_target,
    enhance_velocity,
    interpolate,
    interval_weight,
    rcgm_jump,
    rcgm_residual,
    recover,
    squared_error,
    velocity,
)
from ..base import LossOutput
from ..rng_snapshot import RNGSnapshot
from .branches import Branch, BranchRotation
from .draw import TrainingDraw

PAIR_AS_ONE = 16
"""Up to so many samples the rectify pair is one pass: it runs while the student's activations fill the memory."""


class TwinFlowObjective:
    """Full TwinFlow: flow matching, any-step, one-step, self-adversarial and rectification losses in one pass.

    Args:
        config: the options.
        rotation: the branches' shares; losses of a branch are normalised by its share of all samples, so that
            micro-batches and processes of any size add up to the loss of the whole batch.
    """

    def __init__(self, config: TwinFlowConfig, rotation: BranchRotation):
        self.config = config
        self.rotation = rotation

    def __call__(
        self,
        latents: torch.Tensor,
        condition: Condition,
        draw: TrainingDraw,
        *,
        student: VelocityFunction,
        teacher,
        unconditional: Condition | None = None,
        student_without_grad: VelocityFunction | None = None,
    ) -> LossOutput:
        """
        Args:
            latents: data, shape [B, ...].
            condition: tensors of batch B that the velocity functions take.
            draw: the randomness, see `draw_training_step`.
            student: velocity function of the model in training; called once with gradient, on the whole batch.
            teacher: a `training.teacher` object; `teacher.activated()` is a context that yields its velocity function.
            unconditional: the empty prompt, tensors of batch 1 or B; needed where `twinflow_enhanced_ratio` > 0.
            student_without_grad: used for the passes without gradient; the unwrapped model, where `student` is
                wrapped for several processes.
        """
        frozen_student = student_without_grad or student
        x = self._with_fakes(latents, condition, draw, frozen_student)
        x_t = interpolate(x, draw.noise, draw.t)
        v = velocity(x, draw.noise)
        del x  # so much less in memory during the student's pass

        snapshot = RNGSnapshot(latents.device)
        with torch.no_grad(), snapshot.replay():  # before the student's pass, whose activations fill the memory
            v, jumped = self._teach(x_t, v, condition, unconditional, draw, teacher, snapshot)
        prediction = student(x_t, draw.t, draw.r, draw.sign, condition).float()
        target = self._target(prediction.detach(), v, jumped, draw)

        weight = interval_weight(draw.t, draw.r)
        weight = weight.index_fill(0, draw.adversarial, self.config.twinflow_adversarial_weight)
        per_sample = self._sample_loss(prediction, target) * weight
        loss = per_sample.mean()
        rectify = per_sample.new_zeros(0)
        if self._rectifies(draw):
            one_step = prediction[draw.one_step]
            with torch.no_grad(), snapshot.replay():
                rectify_target = self._rectify_target(prediction, x_t, condition, draw, frozen_student)
            rectify = self._sample_loss(one_step, rectify_target)
            expected_count = len(latents) * self.rotation.fraction(Branch.ONE_STEP)
            loss = loss + self.config.twinflow_rectify_weight * rectify.sum() / expected_count
        return LossOutput(loss, per_sample.detach(), {"rectify": rectify.detach()}, draw.branch_indices)

    def _sample_loss(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.config.twinflow_loss == "l2":
            return squared_error(prediction, target)
        config = self.config
        return barron_loss(prediction, target, alpha=config.twinflow_barron_alpha, c=config.twinflow_barron_scale)

    def _rectifies(self, draw: TrainingDraw) -> bool:
        config = self.config
        return config.twinflow_adversarial_enabled and config.twinflow_rectify_weight > 0 and draw.passes.one_step

    @torch.no_grad()
    def _with_fakes(
        self, latents: torch.Tensor, condition: Condition, draw: TrainingDraw, student: VelocityFunction
    ) -> torch.Tensor:
        """The data, with the student's own one-step images in place of the samples that are to be faked."""
        if not draw.passes.fake:
            return latents
        faked = at_least_one(draw.faked)
        noise = draw.fake_noise if len(draw.faked) else draw.noise[faked]
        ones = torch.ones_like(draw.t[faked])
        prediction = student(noise, ones, torch.zeros_like(ones), ones, take(condition, faked)).float()
        fakes, _ = recover(noise, ones, prediction)
        return latents.index_copy(0, draw.faked, fakes[: len(draw.faked)].to(latents.dtype))

    def _teach(self, x_t, v, condition, unconditional, draw, teacher, snapshot):
        """The velocity with guidance baked in, and the teacher's jumps of the samples that it walks."""
        config = self.config
        walks = draw.passes.rollout and config.twinflow_estimate_order > 0
        enhances = config.needs_unconditional and draw.passes.enhance
        jumped = v[:0]
        with teacher.activated() if walks or enhances else nullcontext() as teacher_velocity:
            if enhances:
                v = self._enhanced(x_t, v, condition, unconditional, draw, teacher_velocity)
            if walks:
                chosen = at_least_one(draw.rollout)
                positive, prompts = draw.sign[chosen].abs(), take(condition, chosen)

                def walk(x, tau, tau_next):
                    with snapshot.replay():
                        return teacher_velocity(x, tau, tau_next, positive, prompts).float()

                jumped = rcgm_jump(
                    walk,
                    v[chosen],
                    x_t[chosen],
                    draw.t[chosen],
                    draw.r[chosen],
                    order=config.twinflow_estimate_order,
                    delta=config.twinflow_delta_t,
                )
        return v, jumped

    def _target(self, prediction, v, jumped, draw) -> torch.Tensor:
        """The student's prediction less the clamped residual; the velocity itself on the twin trajectory."""
        config, target = self.config, v.clone()
        residual = prediction - v
        if len(jumped):
            chosen = draw.rollout
            residual[chosen] = rcgm_residual(
                prediction[chosen],
                v[chosen],
                jumped[: len(chosen)],
                draw.t[chosen],
                draw.r[chosen],
                delta=config.twinflow_delta_t,
            )
        real = draw.real
        target[real] = clamped_target(prediction[real], residual[real], config.twinflow_target_clamp)
        return target

    def _enhanced(self, x_t, v, condition, unconditional, draw, teacher_velocity) -> torch.Tensor:
        """The velocity with guidance baked in."""
        chosen = at_least_one(draw.enhanced)
        signs, prompts = draw.sign[chosen], take(condition, chosen)
        empty = take(expand(unconditional, len(x_t)), chosen)
        pair = self._pair(teacher_velocity, x_t[chosen], draw.t[chosen], (signs, signs), (prompts, empty))
        enhanced = enhance_velocity(v[chosen], *pair, self.config.twinflow_enhanced_ratio)
        return v.index_copy(0, draw.enhanced, enhanced[: len(draw.enhanced)].to(v.dtype))

    def _rectify_target(self, prediction, x_t, condition, draw, student) -> torch.Tensor:
        """Where the twin's velocity and the real one differ on the student's own one-step images, move against it."""
        one_step, count = at_least_one(draw.one_step), len(draw.one_step)
        prediction = prediction[one_step]
        x_hat, _ = recover(x_t[one_step], draw.t[one_step], prediction)
        noise, t = (draw.rectify_noise, draw.rectify_t) if count else (draw.noise[one_step], draw.t[one_step])
        positive, prompts = torch.ones_like(t), take(condition, one_step)
        points = interpolate(x_hat, noise, t)
        split = len(x_t) > PAIR_AS_ONE  # by the batch and not by `count`, which may differ between processes
        twin, real = self._pair(student, points, t, (-positive, positive), (prompts, prompts), split)
        return clamped_target(prediction, twin - real, 1.0)[:count]

    def _pair(self, velocity_function, x, t, signs, conditions, split=False) -> tuple[torch.Tensor, torch.Tensor]:
        """Velocities at the same points with two signs or conditions, as one batch unless passes are to be split."""
        if split or self.config.twinflow_split_passes:
            first, second = (velocity_function(x, t, t, sign, c) for sign, c in zip(signs, conditions))
            return first.float(), second.float()
        twice = t.repeat(2)
        x = x.repeat(2, *[1] * (x.ndim - 1))
        return velocity_function(x, twice, twice, torch.cat(signs), concatenate(*conditions)).float().chunk(2)


def at_least_one(indices: torch.Tensor) -> torch.Tensor:
    """Indices to make a pass with: where this micro-batch has none for it, its first sample, whose result is unused."""
    return indices if len(indices) else indices.new_zeros(1)
