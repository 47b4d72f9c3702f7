"""The arithmetic of TwinFlow as pure functions: tensors in, tensors out.

Linear flow: `x_t = t * z + (1 - t) * x` with data `x`, noise `z` and time `t` in [0, 1], 1 = noise. The velocity is
`z - x`, towards the noise. Times have one entry a sample and are broadcast over the rest. Sources: TwinFlow
(arXiv:2512.05150), RCGM (its base) and UCGM (arXiv:2505.07447).
"""

import math
from collections.abc import Callable

import torch


def expand_time(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Give a time of shape [B] (or []) as many trailing dimensions as `like` has."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def interpolate(x: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The point at time `t` between data `x` and noise `z`."""
    t = expand_time(t, x)
    return t * z + (1 - t) * x


def velocity(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The velocity of the linear flow from data `x` to noise `z`."""
    return z - x


def recover(x_t: torch.Tensor, t: torch.Tensor, prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The data and the noise that a predicted velocity at `(x_t, t)` points to: `(x_hat, z_hat)`."""
    t = expand_time(t, x_t)
    return x_t - t * prediction, x_t + (1 - t) * prediction


def enhance_velocity(
    velocity: torch.Tensor, conditional: torch.Tensor, unconditional: torch.Tensor, ratio: float
) -> torch.Tensor:
    """Bake classifier-free guidance into a target velocity (TwinFlow, target enhancement)."""
    return velocity + ratio * (conditional - unconditional)


def guided_velocity(conditional: torch.Tensor, unconditional: torch.Tensor, ratio: float) -> torch.Tensor:
    """A network's own velocity with classifier-free guidance of scale `ratio`: the target if there is no data."""
    return unconditional + ratio * (conditional - unconditional)


def clamped_target(prediction: torch.Tensor, residual: torch.Tensor, clamp: float) -> torch.Tensor:
    """The target, without gradient, that moves `prediction` against `residual` by at most `clamp` an element."""
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
    """Target for the average velocity from `t` to `r` (RCGM, recursive consistent velocity estimation).

    One step of length `delta` along `velocity`, then `order` teacher jumps to `r`, must add up to the whole jump.
    Where `t - r < delta` the step alone covers it, and the target is the velocity.

    Args:
        teacher: velocity function `(x, t, r) -> F`; called `order` times, without gradient.
        prediction: student's prediction at `(x_t, t)` for target time `r`, shape [B, ...].
        velocity: velocity at `(x_t, t)`, shape [B, ...].
        x_t: the point, shape [B, ...].
        t: its time, shape [B], in [0, 1].
        r: target time, shape [B], `0 <= r <= t`.
        order: number of teacher jumps; 0 gives the velocity as target.
        delta: length of the first step, in time.
        clamp: bound on each element of prediction minus target.

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
    """What the teacher's jumps to `r` add up to, after the step of length `delta`; arguments as in `rcgm_target`.

    It does not depend on the student's prediction, and can be had before it.
    """
    start = torch.maximum(t - delta, r)
    x = x_t - delta * velocity
    jumped = torch.zeros_like(velocity)
    for k in range(order):
        tau = start + (r - start) * (k / order)
        tau_next = start + (r - start) * ((k + 1) / order)
        jump = expand_time(tau - tau_next, x) * teacher(x, tau, tau_next)
        x = x - jump
        jumped = jumped + jump
    return jumped


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
    """How far the student's whole jump is from the step along `velocity` and the teacher's jumps, by `delta`."""
    gap = expand_time(t - r, velocity)
    return torch.where(gap >= delta, (prediction * gap - jumped) / delta - velocity, prediction - velocity)


def barron_loss(
    prediction: torch.Tensor, target: torch.Tensor, *, alpha: float = 1.0, c: float = 1e-3
) -> torch.Tensor:
    """Mean squared error of each sample, shape [B], reweighted as Barron's robust loss does, and divided by `c`.

    The weight carries no gradient; it is 1 at `alpha = 2`.
    """
    error = squared_error(prediction, target)
    if alpha == 2:
        return error / c
    weight = (error.detach() / (c**2 + 1e-8) / abs(alpha - 2) + 1) ** ((alpha - 2) / 2)
    return error * weight / c


def squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each sample, shape [B]."""
    return (prediction - target).square().flatten(1).mean(1)


def interval_weight(t: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Loss weight of a jump from `t` to `r`, shape [B]: 1 for the whole way, largest where `r = t`."""
    return torch.tan((1 - (t.abs() - r.abs())) * math.pi / 2.5) + 1


def ema_decay_warmup(decay: float, target: float) -> float:
    """The teacher's next decay; started at 0 it approaches `target`."""
    return decay + (1 - decay) * (target - decay) / 2
