"""The autoencoder of a small base: its architecture, its training and the statistics of its latents."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

LATENT_CHANNELS = 4


def build_autoencoder(
    channels: tuple[int, int, int] = (16, 32, 32), *, latent_channels: int = LATENT_CHANNELS, image_size: int = 32
) -> AutoencoderKL:
    """A convolutional `AutoencoderKL` of spatial factor 4: by default 32x32 pixels to 8x8x4 latents."""
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
    """Absolute and squared error of the pixels, in [-1, 1], plus the weighted divergence of the latents from N(0, 1)."""
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
    """Trains in place on images in [0, 1], shifted by up to two pixels, from torch's current random state."""
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
    """Gives every latent channel mean 0 and deviation 1 on these images; reconstructions stay as they are.

    The convolution after the encoder takes the shift and scale, the one before the decoder undoes them: the scalar
    shift and scale of the configuration could not treat channels one by one.
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
    """Registers the shift and scale that bring the latents of these images to mean 0 and deviation 1."""
    latents = encode_means(autoencoder, images)
    autoencoder.register_to_config(
        shift_factor=latents.mean().item(), scaling_factor=1 / latents.std(correction=0).item()
    )


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """The images [0, 1] as the autoencoder gives them back from the mean of their latents."""
    latents = encode_means(autoencoder, images)
    decoded = torch.cat([autoencoder.decode(batch).sample for batch in latents.split(500)])
    return (decoded / 2 + 0.5).clamp(0, 1)
