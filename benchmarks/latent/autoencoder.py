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
BATCH_SIZE = 64


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
    """Encode uint8 pixels, shape [N, 3, H, W], to latents on the CPU, shape [N, 32, H / 8, W / 8]."""
    autoencoder.to(device)
    parts = [autoencoder.encode(centred(part.to(device))).latents.cpu() for part in pixels.split(BATCH_SIZE)]
    return torch.cat(parts)


def centred(pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 pixels as the autoencoder takes them, in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def set_statistics(autoencoder: AutoencoderTiny, latents: torch.Tensor) -> None:
    """Set the scale and shift that give latents a mean of 0 and a deviation of 1, as pipelines apply them."""
    autoencoder.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())


def normalize(autoencoder: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """Return latents as the transformer sees them."""
    return (latents - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderTiny, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Encode and decode uint8 pixels. Returns uint8 pixels on the CPU."""
    autoencoder.to(device)
    parts = []
    for part in pixels.split(BATCH_SIZE):
        decoded = autoencoder.decode(autoencoder.encode(centred(part.to(device))).latents, return_dict=False)[0]
        parts.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
    return torch.cat(parts)


def psnr(pixels: torch.Tensor, reconstructed: torch.Tensor) -> float:
    """Return the mean peak signal-to-noise ratio of uint8 reconstructions in decibel."""
    errors = ((pixels.float() - reconstructed.float()) / 255).square().flatten(1).mean(1)
    return (-10 * errors.clamp(min=1e-10).log10()).mean().item()
