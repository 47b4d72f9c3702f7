"""The arithmetic of TwinFlow as pure functions of tensors.

The linear flow is `x_t = t * z + (1 - t) * x` with data `x`, noise `z` and time `t` in [0, 1], where 1 is noise. The
velocity is `z - x`, towards the noise. Times have one entry per sample and are broadcast over the other dimensions.
Sources: TwinFlow (arXiv:2512.05150), RCGM (the method it builds on) and UCGM (arXiv:2505.07447).
"""

import math
from collections.abc import Callable

import torch


def expand_time(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Reshape a time of shape [B] (or []) so that it broadcasts over `like`, of shape [B, ...]."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def interpolate(x: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the point at time `t`, shape [B], between data `x` and noise `z`, both of shape [B, ...]."""
    t = expand_time(t, x)
    return t * z + (1 - t) * x


def velocity(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return the velocity of the linear flow from data `x` to noise `z`."""
    return z - x


def recover(x_t: torch.Tensor, t: torch.Tensor, prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the data and the noise, `(x_hat, z_hat)`, that a velocity predicted at `(x_t, t)` implies.

    Args:
        x_t: noisy samples, shape [B, ...].
        t: times in [0, 1], shape [B].
        prediction: predicted velocity, shape [B, ...].
    """
    t = expand_time(t, x_t)
    return x_t - t * prediction, x_t + (1 - t) * prediction


def enhance_velocity(
    velocity: torch.Tensor, conditional: torch.Tensor, unconditional: torch.Tensor, ratio: float
) -> torch.Tensor:
    """Return `velocity + ratio * (conditional - unconditional)`, a target velocity with guidance built in."""
    return velocity + ratio * (conditional - unconditional)


def guided_velocity(conditional: torch.Tensor, unconditional: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return a network's velocity with classifier-free guidance of scale `ratio`, the target of data-free training."""
    return unconditional + ratio * (conditional - unconditional)


def clamped_target(prediction: torch.Tensor, residual: torch.Tensor, clamp: float) -> torch.Tensor:
    """Return `prediction` minus `residual` as a target without gradient, with the residual clamped to +-`clamp`."""
    return (prediction - residual.clamp(-clamp, clamp)).detach()


def rcgm_target(
    teacher: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    prediction: torch.Tensor,
    velocity: torch.Tensor,
    x_t: torch.Tensor,
    t: torch.Tensor,
    r: torch.Tensor,
    *,
    order: int,
    delta: float,
    clamp: float,
) -> torch.Tensor:
    """Return the target for the average velocity from `t` to `r` (RCGM, recursive consistent velocity estimation).

    One step of length `delta` along `velocity` and `order` teacher jumps to `r` must add up to the whole jump. If
    `t - r < delta`, there are no jumps, and the target is the velocity.

    Args:
        teacher: velocity function `(x, t, r) -> F`; called `order` times, without gradient.
        prediction: student's prediction at `(x_t, t)` for target time `r`, shape [B, ...].
        velocity: velocity at `(x_t, t)`, shape [B, ...].
        x_t: noisy samples, shape [B, ...].
        t: time of the samples, shape [B], in [0, 1].
        r: target time, shape [B], `0 <= r <= t`.
        order: number of teacher jumps; with 0 the target is the velocity.
        delta: length of the first step, in time.
        clamp: limit for each element of the difference between prediction and target.

    Returns:
        The target, without gradient, shape [B, ...].
    """
    with torch.no_grad():
        residual = prediction - velocity
        if order > 0:
            jumped = rcgm_jump(teacher, velocity, x_t, t, r, order=order, delta=delta)
            residual = rcgm_residual(prediction, velocity, jumped, t, r, delta=delta)
        return clamped_target(prediction, residual, clamp)


@torch.no_grad()
def rcgm_jump(
    teacher: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    velocity: torch.Tensor,
    x_t: torch.Tensor,
    t: torch.Tensor,
    r: torch.Tensor,
    *,
    order: int,
    delta: float,
) -> torch.Tensor:
    """Return the sum of the teacher's jumps to `r` after a step of length `delta`, shape [B, ...].

    Takes the arguments of `rcgm_target`. The result does not depend on the student's prediction, so it can be computed
    before the prediction.
    """
    x = x_t - delta * velocity
    jumped = torch.zeros_like(velocity)
    for tau, tau_next in jump_times(t, r, order=order, delta=delta):
        jump = expand_time(tau - tau_next, x) * teacher(x, tau, tau_next)
        x = x - jump
        jumped = jumped + jump
    return jumped


def jump_times(
    t: torch.Tensor, r: torch.Tensor, *, order: int, delta: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the time and the target time of each of the teacher's jumps in `rcgm_jump`, shape [B] each."""
    start = torch.maximum(t - delta, r)
    taus = [start + (r - start) * (k / order) for k in range(order + 1)]
    return list(zip(taus, taus[1:]))


@torch.no_grad()
def rcgm_residual(
    prediction: torch.Tensor,
    velocity: torch.Tensor,
    jumped: torch.Tensor,
    t: torch.Tensor,
    r: torch.Tensor,
    *,
    delta: float,
) -> torch.Tensor:
    """Return the difference between the student's whole jump and the step plus teacher jumps, divided by `delta`.

    Args:
        prediction: student's prediction, shape [B, ...].
        velocity: velocity of the first step, shape [B, ...].
        jumped: the result of `rcgm_jump`, shape [B, ...].
        t, r: time and target time, shape [B].
        delta: length of the first step, in time.
    """
    gap = expand_time(t - r, velocity)
    return torch.where(gap >= delta, (prediction * gap - jumped) / delta - velocity, prediction - velocity)


def barron_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    alpha: float = 1.0,
    c: float = 1e-3,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean squared error per sample, shape [B], weighted as in Barron's robust loss and divided by `c`.

    Args:
        prediction, target, weights: as in `squared_error`.
        alpha: shape of the loss, in [0, 2]. Smaller values give large errors less weight; 2 gives all the weight 1. The
            weight has no gradient.
        c: scale of the loss, above 0.
    """
    error = squared_error(prediction, target, weights)
    if alpha == 2:
        return error / c
    weight = (error.detach() / (c**2 + 1e-8) / abs(alpha - 2) + 1) ** ((alpha - 2) / 2)
    return error * weight / c


def squared_error(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean squared error per sample, shape [B].

    Args:
        prediction, target: shape [B, ...].
        weights: weight of each number of the samples, shape [1, ...] or [B, ...]. Defaults to 1.
    """
    errors = (prediction - target).square()
    return (errors if weights is None else errors * weights).flatten(1).mean(1)


def interval_weight(t: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Return the loss weight, shape [B], of jumps from `t` to `r`: 1 from noise to data, and about 4 at `r = t`."""
    return torch.tan((1 - (t.abs() - r.abs())) * math.pi / 2.5) + 1


def ema_decay_warmup(decay: float, target: float) -> float:
    """Return the decay of the EMA teacher in the next step. The first decay is 0, and later ones approach `target`."""
    return decay + (1 - decay) * (target - decay) / 2
