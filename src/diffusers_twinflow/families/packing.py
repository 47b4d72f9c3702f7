"""Pack latents into tokens of 2 x 2 positions, the layout of FLUX.1 and related models."""

import torch
from diffusers import FluxPipeline
from torch.nn import functional as F

from .base import Family


class PackedFamily(Family):
    """A family whose latents are packed in 2 x 2 patches and whose times are in 0..1."""

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


def pad_tokens(embeds: torch.Tensor, mask: torch.Tensor | None, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut or pad token embeddings to one length.

    Args:
        embeds: shape [B, L, D].
        mask: shape [B, L], true for tokens that are not padding; `None` if no token is padding.
        length: number of tokens to return.

    Returns:
        Embeddings of shape [B, length, D], and a boolean mask of shape [B, length] that is false for padding.
    """
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask.bool()
    missing = max(length - embeds.shape[1], 0)
    return F.pad(embeds[:, :length], (0, 0, 0, missing)), F.pad(mask[:, :length], (0, missing))
