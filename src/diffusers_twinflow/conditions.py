"""What a denoiser is conditioned on, as tensors by name, and how a method calls a denoiser."""

from collections.abc import Callable

import torch

Condition = dict[str, torch.Tensor]
"""Tensors by name, each of batch B, such as prompt embeddings and their mask."""
VelocityFunction = Callable[..., torch.Tensor]
"""`(x_t, t, r, sign, condition) -> velocity`: the velocity is `noise - data`, times are in [0, 1], with one time, target
time and sign per sample. `r` and `sign` may be `None`, for a model without a target time."""


def take(condition: Condition, indices: torch.Tensor) -> Condition:
    """The samples at `indices` of a condition."""
    return {name: tensor[indices] for name, tensor in condition.items()}


def concatenate(first: Condition, second: Condition) -> Condition:
    """Two conditions as one batch."""
    return {name: torch.cat([tensor, second[name]]) for name, tensor in first.items()}


def expand(condition: Condition, count: int) -> Condition:
    """A condition of batch 1, `count` times; one of batch `count` as it is."""
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in condition.items()}
