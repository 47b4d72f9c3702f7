"""Velocity functions of a denoiser that is called as a stock pipeline was seen to call it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..conditions import ON_HOST, Condition, VelocityFunction
from .call_layout import join
from .denoising import Denoising
from .sample_place import CallLayout
from .size_parts import PartOfSize


def call_velocity(
    model: Callable[..., Any],
    family: Denoising,
    layout: CallLayout,
    parts_of_size: Mapping[str, PartOfSize],
    prediction_sign: float,
) -> VelocityFunction:
    """Return the velocity of samples of one size.

    Args:
        model: the denoiser.
        family: says how the denoiser takes times, and how many samples it takes.
        layout: the arguments of the denoiser's call.
        parts_of_size: the conditions, or parts of conditions, that depend on the size and not on the prompt.
        prediction_sign: -1 if the denoiser predicts data minus noise, else 1.
    """

    def velocity(
        x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
    ) -> torch.Tensor:
        count, shape, device = len(x_t), x_t.shape, x_t.device
        condition = condition | {
            name: part.put(condition.get(name), count, "cpu" if name.startswith(ON_HOST) else device)
            for name, part in parts_of_size.items()
        }
        arguments = {name: join(each, condition, count, device) for name, each in layout.arguments.items()}
        for place, part in zip(layout.places, layout.split_sample(x_t)):
            arguments[place.argument] = place.fill(part, condition.get(place.argument))
        arguments |= family.times(t, r, sign)
        for name in filter(None, (family.timestep_argument, *layout.repeated_times, layout.native_target)):
            time = family.timestep(r if r is not None and name == layout.native_target else t)
            time = time.reshape(-1, *[1] * len(layout.time_shape)).expand(-1, *layout.time_shape)
            arguments[name] = time[0] if family.takes_one_sample else time
        if layout.controlnet is not None:
            arguments |= layout.controlnet.run(arguments, condition, count, device)
        return layout.read(model(**arguments)).reshape(shape) * prediction_sign

    return one_at_a_time(velocity) if family.takes_one_sample else velocity


def one_at_a_time(velocity: VelocityFunction) -> VelocityFunction:
    """Return a velocity function for any number of samples, from one that takes one sample."""

    def for_each(
        x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
    ) -> torch.Tensor:
        samples = range(len(x_t))
        parts = [
            velocity(
                x_t[i : i + 1],
                t[i : i + 1],
                None if r is None else r[i : i + 1],
                None if sign is None else sign[i : i + 1],
                {name: tensor[i : i + 1] for name, tensor in condition.items()},
            )
            for i in samples
        ]
        return torch.cat(parts)

    return for_each


def by_shape(velocities: Mapping[tuple[int, ...], VelocityFunction]) -> VelocityFunction:
    """Return a velocity function for samples of several shapes, from one for each shape of a sample."""

    def velocity(
        x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
    ) -> torch.Tensor:
        return velocities[tuple(x_t.shape[1:])](x_t, t, r, sign, condition)

    return velocity
