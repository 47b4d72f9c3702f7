from functools import cache

import torch
from diffusers.models.modeling_utils import ModelMixin


def latent_statistics(vae: ModelMixin, device: torch.device) -> torch.Tensor:
    """Return mean and standard deviation of an autoencoder's latent channels, each of shape [1, C, 1, 1, 1]."""
    return _on_device(tuple(vae.config.latents_mean), tuple(vae.config.latents_std), vae.dtype, device)


@cache
def _on_device(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Send the statistics to a device only once, because sending makes the CPU wait."""
    with torch.inference_mode(False):
        return torch.tensor([mean, std], dtype=dtype, device=device).reshape(2, 1, -1, 1, 1, 1)
