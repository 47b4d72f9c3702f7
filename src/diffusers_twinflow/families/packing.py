"""Helpers of families for latents: statistics of the autoencoder, and packing into tokens of 2 x 2 positions."""

from functools import cache

import torch
from diffusers import FluxPipeline
from diffusers.models.modeling_utils import ModelMixin

from .base import Family


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


class PackedFamily(Family):
    """A family whose latents are packed in 2 x 2 patches, as those of FLUX.1, and whose times are in 0..1."""

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Pack latents [B, C, h, w] into tokens [B, (h / 2) * (w / 2), 4 * C]."""
        return FluxPipeline._pack_latents(latents, *latents.shape)

    def unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return FluxPipeline._unpack_latents(packed, height, width, vae_scale_factor=1)


def position_ids(latents: torch.Tensor) -> torch.Tensor:
    """Return a zero, the row and the column of each packed token, shape [(h / 2) * (w / 2), 3]."""
    sides = [torch.arange(side // 2, device=latents.device, dtype=latents.dtype) for side in latents.shape[-2:]]
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
