"""Build and train the autoencoder of a small base, and normalize its latents."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

LATENT_CHANNELS = 4


def build_autoencoder(
    channels: tuple[int, int, int] = (16, 32, 32), *, latent_channels: int = LATENT_CHANNELS, image_size: int = 32
) -> AutoencoderKL:
    """Build a convolutional `AutoencoderKL` with spatial factor 4. By default it maps 32x32 pixels to 8x8x4 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=image_size,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def autoencoder_loss(autoencoder: AutoencoderKL, pixels: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """Return the absolute plus squared error of pixels in [-1, 1], plus the weighted KL divergence of the latents."""
    posterior = autoencoder.encode(pixels).latent_dist
    reconstruction = autoencoder.decode(posterior.sample()).sample
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    return F.l1_loss(reconstruction, pixels) + F.mse_loss(reconstruction, pixels) + kl_weight * divergence


def train_autoencoder(
    autoencoder: AutoencoderKL,
    images: torch.Tensor,
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    kl_weight: float = 1e-3,
) -> None:
    """Train in place on images in [0, 1], which are shifted randomly by up to two pixels."""
    autoencoder.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(steps), desc="Autoencoder")
    for _ in progress:
        indices = torch.randint(len(images), (batch_size,), device=images.device)
        shift = torch.randint(-2, 3, (2,)).tolist()
        pixels = 2 * images[indices].roll(shift, dims=(2, 3)) - 1
        loss = autoencoder_loss(autoencoder, pixels, kl_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    autoencoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_means(autoencoder: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([autoencoder.encode(2 * batch - 1).latent_dist.mean for batch in images.split(500)])


@torch.no_grad()
def equalize_latent_channels(autoencoder: AutoencoderKL, images: torch.Tensor) -> None:
    """Give every latent channel mean 0 and deviation 1 on these images, without changing reconstructions.

    The shift and scale per channel go into the convolution after the encoder, and their inverse into the convolution
    before the decoder. The shift and scale in the configuration are single numbers, not one per channel.
    """
    latents = encode_means(autoencoder, images)
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3), correction=0)
    quant, post_quant, channels = autoencoder.quant_conv, autoencoder.post_quant_conv, len(mean)
    quant.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
    post_quant.bias += post_quant.weight[:, :, 0, 0] @ mean
    post_quant.weight *= deviation.view(1, -1, 1, 1)


def set_latent_statistics(autoencoder: AutoencoderKL, images: torch.Tensor) -> None:
    """Set the shift and scale in the configuration so that latents of these images have mean 0 and deviation 1."""
    latents = encode_means(autoencoder, images)
    autoencoder.register_to_config(
        shift_factor=latents.mean().item(), scaling_factor=1 / latents.std(correction=0).item()
    )


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode and decode images in [0, 1], using the mean of their latents."""
    latents = encode_means(autoencoder, images)
    decoded = torch.cat([autoencoder.decode(batch).sample for batch in latents.split(500)])
    return (decoded / 2 + 0.5).clamp(0, 1)
