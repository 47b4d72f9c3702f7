"""The condition of a denoiser, as tensors by name, and the type of the velocity functions that take it."""

from collections.abc import Callable

import torch
from torch import nn

Condition = dict[str, torch.Tensor]
"""Tensors by name, each with batch size B, such as prompt embeddings and their mask."""
VelocityFunction = Callable[..., torch.Tensor]
"""`(x_t, t, r, sign, condition) -> velocity`. The velocity is `noise - data`. Time `t`, target time `r` and `sign` have
shape [B], with times in [0, 1] and 1 at noise. For a model without a target time, `r` and `sign` may be `None`."""
VelocityOf = Callable[[nn.Module], VelocityFunction]
"""Turns a model into its velocity function."""


def take(condition: Condition, indices: torch.Tensor) -> Condition:
    """Return the samples at `indices` of a condition."""
    return {name: tensor[indices] for name, tensor in condition.items()}


def concatenate(first: Condition, second: Condition) -> Condition:
    """Concatenate two conditions to one batch."""
    return {name: torch.cat([tensor, second[name]]) for name, tensor in first.items()}


def expand(condition: Condition, count: int) -> Condition:
    """Expand a condition of batch 1 to batch `count`. A condition of batch `count` is returned unchanged."""
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in condition.items()}
