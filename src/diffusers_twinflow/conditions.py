"""The condition of a denoiser, as tensors by name, and the type of the velocity functions that take it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

Condition = dict[str, torch.Tensor]
"""Tensors by name, each with batch size B, such as prompt embeddings and their mask. Those whose name starts with
`ON_HOST` stay on the CPU, because a velocity function reads their numbers, such as the lengths of the prompts."""
VelocityFunction = Callable[..., torch.Tensor]
"""`(x_t, t, r, sign, condition) -> velocity`. The velocity is `noise - data`. Time `t`, target time `r` and `sign` have
shape [B], with times in [0, 1] and 1 at noise. For a model without a target time, `r` and `sign` may be `None`."""
VelocityOf = Callable[[nn.Module], VelocityFunction]
"""Turns a model into its velocity function."""

ON_HOST = "on_host."
"""Start of the names of conditions that stay on the CPU."""


def take(condition: Condition, indices: torch.Tensor, known: np.ndarray | None = None) -> Condition:
    """Return the samples at `indices` of a condition.

    Args:
        condition: the condition.
        indices: the indices on the device.
        known: the same indices on the host. Without them, conditions on the CPU make the host wait for the device.
    """

    def rows(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.startswith(ON_HOST):
            return tensor[indices]
        return tensor[indices.cpu() if known is None else torch.from_numpy(known)]

    return {name: rows(name, tensor) for name, tensor in condition.items()}


def concatenate(first: Condition, second: Condition) -> Condition:
    """Concatenate two conditions to one batch."""
    return {name: torch.cat([tensor, second[name]]) for name, tensor in first.items()}


def expand(condition: Condition, count: int) -> Condition:
    """Expand a condition of batch 1 to batch `count`. A condition of batch `count` is returned unchanged."""
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in condition.items()}


def send(condition: Condition, device: torch.device | str) -> Condition:
    """Send a condition to a device, except for the part that stays on the CPU."""
    return {
        name: tensor if name.startswith(ON_HOST) else tensor.to(device, non_blocking=True)
        for name, tensor in condition.items()
    }


def read(tensor: torch.Tensor) -> np.ndarray:
    """Return the numbers of a condition on the CPU. If it was sent to the device, the host waits for it."""
    values = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
    return (values if values.device.type == "cpu" else values.cpu()).numpy()
