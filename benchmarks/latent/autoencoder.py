"""The tiny autoencoder of FLUX.2 (TAEF2) as a diffusers `AutoencoderTiny`.

Its weights are files of the GitHub repository madebyollin/taesd (MIT): `taef2_encoder.pth` and `taef2_decoder.pth`. They
are not in this repository.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import nn

LATENT_CHANNELS = 32
CHANNELS = 64
ENCODER_BLOCKS, DECODER_BLOCKS = (11, 12, 13), (2, 3, 4)
"""Blocks at the lowest resolution, by their place in `AutoencoderTiny`."""
FILES = {"encoder": "taef2_encoder.pth", "decoder": "taef2_decoder.pth"}
BATCH_SIZE = 16


class NormalizedBlock(AutoencoderTinyBlock):
    """A block that first adds features that are normalized over the whole image, which `AutoencoderTiny` lacks."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, "relu")
        wide = 4 * channels
        self.pool = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.GroupNorm(4, wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.pool(x))


def build_autoencoder(folder: str | Path | None = None, seed: int = 0) -> AutoencoderTiny:
    """Build the autoencoder.

    Args:
        folder: folder with `taef2_encoder.pth` and `taef2_decoder.pth`. Without one, the weights are random, which is
            enough for a rehearsal.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = AutoencoderTiny(latent_channels=LATENT_CHANNELS)
        for part, places in ((autoencoder.encoder, ENCODER_BLOCKS), (autoencoder.decoder, DECODER_BLOCKS)):
            for place in places:
                part.layers[place] = NormalizedBlock(CHANNELS)
    if folder is not None:
        for part, name in FILES.items():
            weights = torch.load(Path(folder, name), map_location="cpu", weights_only=True)
            getattr(autoencoder, part).layers.load_state_dict(named_as_in_diffusers(weights, part))
    return autoencoder.eval().requires_grad_(False)


def named_as_in_diffusers(weights: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """Rename weights. The published decoder has a clamp as its first layer, which `DecoderTiny` does itself."""
    shift = 1 if part == "decoder" else 0
    renamed = {}
    for name, tensor in weights.items():
        place, _, rest = name.partition(".")
        renamed[f"{int(place) - shift}.{rest}"] = tensor
    return renamed


@torch.no_grad()
def encode(autoencoder: AutoencoderTiny, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Encode pixels in [-1, 1], shape [N, 3, H, W], to latents on the CPU, shape [N, 32, H / 8, W / 8]."""
    autoencoder.to(device)
    return torch.cat([autoencoder.encode(part.to(device)).latents.cpu() for part in pixels.split(BATCH_SIZE)])


def set_statistics(autoencoder: AutoencoderTiny, latents: torch.Tensor) -> None:
    """Set the scale and shift that give latents a mean of 0 and a deviation of 1, as pipelines apply them."""
    autoencoder.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())


def normalize(autoencoder: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """Return latents as the transformer sees them."""
    return (latents - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor


@torch.no_grad()
def psnr(autoencoder: AutoencoderTiny, pixels: torch.Tensor, device: torch.device) -> float:
    """Return the mean peak signal-to-noise ratio of reconstructions in decibel."""
    autoencoder.to(device)
    ratios = []
    for part in pixels.split(BATCH_SIZE):
        shown = part.to(device)
        decoded = autoencoder.decode(autoencoder.encode(shown).latents, return_dict=False)[0].clamp(-1, 1)
        errors = ((decoded - shown) / 2).square().flatten(1).mean(1)
        ratios.append((-10 * errors.clamp(min=1e-10).log10()).cpu())
    return torch.cat(ratios).mean().item()


class LatentStatistics(nn.Module):
    """Features for a Fréchet distance without a download: mean and deviation of each latent channel.

    Values are comparable only within this benchmark.
    """

    num_features = 2 * LATENT_CHANNELS

    def __init__(self, autoencoder: AutoencoderTiny):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        latents = self.autoencoder.encode(images.float() / 127.5 - 1).latents.flatten(2)
        return torch.cat([latents.mean(2), latents.std(2)], dim=1)
