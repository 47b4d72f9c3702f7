"""Reduce timesteps per token or frame to one timestep per sample."""

import torch

from .timestep_embedders import TimestepEmbedders


def sample_timesteps(timestep: torch.Tensor, rule: TimestepEmbedders, name: str) -> torch.Tensor:
    """Return one timestep per sample, shape [B]: the noisiest one of its tokens.

    Args:
        timestep: timesteps of the stock forward, per sample, token or frame.
        rule: how the class embeds its timestep.
        name: name of the class, for the error.

    Raises:
        ValueError: if the class accepts only one timestep per sample with TwinFlow on.
    """
    if rule.max_timestep_dim is not None and timestep.ndim > rule.max_timestep_dim:
        raise ValueError(
            f"{name} takes one timestep per sample with TwinFlow on, but got timesteps of shape {tuple(timestep.shape)}. "
            "With several timesteps per sample this class would mix the samples of a batch. Pass timesteps of shape [B]."
        )
    if rule.packed or timestep.ndim == 0:
        timestep = timestep.reshape(1, -1)
    if timestep.ndim == 1:
        return timestep
    tokens = timestep.flatten(1)
    return tokens.amax(1) if rule.at_noise > rule.at_data else tokens.amin(1)


def for_every_token(target: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Expand one target time per sample to the shape of `timestep`, which may be per token."""
    return target.reshape(-1, *[1] * (timestep.ndim - 1)).expand_as(timestep) if timestep.ndim else target
