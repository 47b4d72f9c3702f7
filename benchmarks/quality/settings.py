"""The two sizes of the benchmark: the real one for a GPU, and a rehearsal that a laptop runs in minutes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        image_size: side of the images in pixels; latents are a quarter of it.
        text_width: width of each of the two frozen text encoders.
        max_tokens: length of an encoded prompt.
        judge_channels: channels of the judge's blocks. Each block halves the side, down to 4.
        judge_seconds, autoencoder_seconds: time to train. The number of steps that fit is measured first.
        base_train_steps: optimizer steps of the base, if the time limit allows them.
        base_warm_up_steps: steps in which its learning rate rises.
        steps: optimizer steps of a variant.
        samples: number of scored samples per row.
        diversity_prompts, diversity_seeds: number of prompts, and of images per prompt, for the diversity.
        guidance_scales: guidance scales to try for the reference of the base.
        base_steps: steps of the reference of the base.
    """

    image_size: int
    vae_channels: tuple[int, int, int]
    latent_channels: int
    text_width: int
    max_tokens: int
    num_layers: int
    num_heads: int
    head_dim: int
    judge_channels: tuple[int, ...]
    judge_seconds: float
    autoencoder_seconds: float
    base_train_steps: int
    base_warm_up_steps: int
    base_batch_size: int
    base_learning_rate: float
    batch_size: int
    steps: int
    samples: int
    diversity_prompts: int
    diversity_seeds: int
    guidance_scales: tuple[float, ...]
    base_steps: int
    few_steps: tuple[int, ...] = (1, 2, 4, 8)
    seed: int = 0


FULL = Settings(
    image_size=64,
    vae_channels=(48, 96, 96),
    latent_channels=8,
    text_width=128,
    max_tokens=16,
    num_layers=6,
    num_heads=5,
    head_dim=64,
    judge_channels=(32, 64, 128, 128),
    judge_seconds=50.0,
    autoencoder_seconds=65.0,
    base_train_steps=20_000,
    base_warm_up_steps=500,
    base_batch_size=512,
    base_learning_rate=5e-4,
    batch_size=256,
    steps=1000,
    samples=4096,
    diversity_prompts=64,
    diversity_seeds=8,
    guidance_scales=(1.0, 1.25, 1.5, 2.0, 3.0),
    base_steps=50,
)

REHEARSAL = Settings(
    image_size=32,
    vae_channels=(8, 8, 8),
    latent_channels=4,
    text_width=16,
    max_tokens=8,
    num_layers=2,
    num_heads=2,
    head_dim=32,
    judge_channels=(8, 16, 16),
    judge_seconds=3.0,
    autoencoder_seconds=3.0,
    base_train_steps=20,
    base_warm_up_steps=5,
    base_batch_size=16,
    base_learning_rate=1e-3,
    batch_size=16,
    steps=8,
    samples=64,
    diversity_prompts=4,
    diversity_seeds=4,
    guidance_scales=(1.0, 1.5),
    base_steps=4,
)
