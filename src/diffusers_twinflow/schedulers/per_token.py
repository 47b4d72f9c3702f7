"""Steps in which every token has a time of its own."""

import torch

from ..diff2flow import DIFFUSION_PREDICTION_TYPES

NEEDED = {"sampling_order": 1, "extrapolation_ratio": 0, "squeeze_target_time": False, "invert_sigmas": False}


def per_token_sigmas(timesteps: torch.Tensor, grid: torch.Tensor, config) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each token stands, and the next sigma of the grid below that, both of shape [B, L, 1].

    Args:
        timesteps: shape [B, L], in the unit of the scheduler's timesteps.
        grid: the scheduler's sigmas, shape [N + 1].
        config: of the scheduler.

    Raises:
        ValueError: for an option that needs one time a sample.
    """
    if config.prediction_type in DIFFUSION_PREDICTION_TYPES:
        raise ValueError(f"prediction_type={config.prediction_type!r} does not go with per_token_timesteps.")
    for name, value in NEEDED.items():
        if config[name] != value:
            raise ValueError(f"{name}={config[name]} does not go with per_token_timesteps: set {name}={value}.")
    sigmas = timesteps.to(torch.float32) / config.num_train_timesteps
    below = grid < sigmas.unsqueeze(-1) - 1e-6
    return sigmas.unsqueeze(-1), (below * grid).amax(dim=-1, keepdim=True)


def is_noisiest(timesteps: torch.Tensor) -> torch.Tensor:
    """Whether a token is at its sample's highest time, shape [B, L, 1]: the others hold some encoded picture."""
    return (timesteps == timesteps.amax(dim=-1, keepdim=True)).unsqueeze(-1)
