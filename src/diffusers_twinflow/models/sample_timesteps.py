"""One timestep a sample, where a class takes one a token or frame."""

import torch

from .timestep_embedders import TimestepEmbedders


def sample_timesteps(timestep: torch.Tensor, rule: TimestepEmbedders, name: str) -> torch.Tensor:
    """One timestep a sample, shape [B]: the noisiest of its tokens."""
    if rule.max_timestep_dim is not None and timestep.ndim > rule.max_timestep_dim:
        raise ValueError(
            f"{name} takes one timestep a sample with TwinFlow on, and got timesteps of shape {tuple(timestep.shape)}: "
            "times that differ within a sample mix the samples of a batch there."
        )
    if rule.packed or timestep.ndim == 0:
        timestep = timestep.reshape(1, -1)
    if timestep.ndim == 1:
        return timestep
    tokens = timestep.flatten(1)
    return tokens.amax(1) if rule.at_noise > rule.at_data else tokens.amin(1)


def for_every_token(target: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """One target a sample, for every token of it."""
    return target.reshape(-1, *[1] * (timestep.ndim - 1)).expand_as(timestep) if timestep.ndim else target
