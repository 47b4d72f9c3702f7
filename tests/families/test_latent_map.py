"""The map between samples and an autoencoder's latents, and its inverse."""

import torch

from diffusers_twinflow.families.latent_map import LatentMap


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Tokens of 2 x 2 patches, as a pipeline could pack latents [B, C, h, w]."""
    patches = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def test_to_samples_is_the_inverse_of_to_latents_and_packs_as_the_pipeline():
    shape = (3, 4, 6)
    places = packed(torch.arange(72).reshape(1, *shape)).flatten()
    scale, shift = torch.rand(3) - 2, torch.rand(3)  # by channel; a negative scale turns no deviation negative
    by_place = [each[:, None, None].expand(shape).flatten()[places] for each in (scale, shift)]
    latent_map = LatentMap(places, *by_place, (6, 12), shape)
    latents, std = torch.randn(2, *shape), torch.rand(2, *shape)
    channels = [each[:, None, None] for each in (scale, shift)]
    samples = latent_map.to_samples(latents)
    torch.testing.assert_close(samples, packed((latents - channels[1]) / channels[0]))
    torch.testing.assert_close(latent_map.to_latents(samples), latents)
    torch.testing.assert_close(latent_map.std_to_samples(std), packed(std / channels[0].abs()))
