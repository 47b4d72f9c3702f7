"""Convert samples to the latents that an autoencoder decodes, by an order, a scale and a shift."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LatentMap:
    """Converts between samples, as a denoiser takes them, and the autoencoder's latents.

    Attributes:
        places: for each number of a sample, its place in the autoencoder's latents, shape [N].
        scale, shift: the autoencoder's latents are `sample * scale + shift`, in the order of the sample, shape [N].
        sample_shape: shape of one sample, without batch dimension.
        latent_shape: shape of the autoencoder's latents, without batch dimension.
    """

    places: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    sample_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    def to_samples(self, latents: torch.Tensor) -> torch.Tensor:
        """Convert the autoencoder's latents, shape [B, *latent_shape], to samples in float32."""
        return ((self._in_order(latents) - self.shift) / self.scale).unflatten(1, self.sample_shape)

    def std_to_samples(self, std: torch.Tensor) -> torch.Tensor:
        """Convert the standard deviation of the autoencoder's latents to that of the samples."""
        return (self._in_order(std) / self.scale.abs()).unflatten(1, self.sample_shape)

    def to_latents(self, samples: torch.Tensor) -> torch.Tensor:
        """Convert samples, shape [B, *sample_shape], to the autoencoder's latents in float32."""
        values = samples.flatten(1).float() * self.scale + self.shift
        return torch.empty_like(values).index_copy_(1, self.places, values).unflatten(1, self.latent_shape)

    def _in_order(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.flatten(1)[:, self.places].float()
