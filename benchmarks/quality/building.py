"""Build the base: a `StableDiffusion3Pipeline` of real classes at small size, with an untrained transformer."""

from copy import deepcopy

import torch
from autoencoder import (
    build_autoencoder,
    equalize_latent_channels,
    reconstruct,
    set_latent_statistics,
    train_autoencoder,
)
from build_base import zero_initialize
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from text import END_TOKEN, START_TOKEN, UNKNOWN_TOKEN, build_text_encoder, clip_tokenizer
from transformers import CLIPTokenizer
from transformers.tokenization_utils_base import AddedToken

from .dataset import Split
from .settings import Settings
from .timing import steps_within

AUTOENCODER_RATE = 1e-3
STATISTICS_IMAGES = 1000


def build_word_tokenizer(captions: list[str], max_tokens: int) -> CLIPTokenizer:
    """Build a `CLIPTokenizer` with one token per word of the captions."""
    words = sorted({word for caption in captions for word in caption.split()})
    tokens = dict.fromkeys([START_TOKEN, END_TOKEN, UNKNOWN_TOKEN, *words])
    tokenizer = clip_tokenizer({token: index for index, token in enumerate(tokens)}, [], max_tokens)
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    return tokenizer


def build_transformer(settings: Settings) -> SD3Transformer2DModel:
    """Build a transformer with patches of 2x2 latents and the zero initialization of DiT."""
    side = settings.image_size // 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        transformer = SD3Transformer2DModel(
            sample_size=side,
            patch_size=2,
            in_channels=settings.latent_channels,
            out_channels=settings.latent_channels,
            num_layers=settings.num_layers,
            attention_head_dim=settings.head_dim,
            num_attention_heads=settings.num_heads,
            joint_attention_dim=2 * settings.text_width,
            caption_projection_dim=settings.num_heads * settings.head_dim,
            pooled_projection_dim=2 * settings.text_width,
            pos_embed_max_size=side // 2,
            qk_norm="rms_norm",
        )
    zero_initialize(transformer)
    return transformer


def train_base_autoencoder(images: torch.Tensor, settings: Settings) -> AutoencoderKL:
    """Train an autoencoder for `autoencoder_seconds`. Its latents have mean 0 and deviation 1."""
    torch.manual_seed(settings.seed)
    autoencoder = build_autoencoder(
        settings.vae_channels, latent_channels=settings.latent_channels, image_size=settings.image_size
    ).to(images.device)
    batch_size = min(64, settings.batch_size)
    options = {"learning_rate": AUTOENCODER_RATE, "kl_weight": 1e-4, "batch_size": batch_size}
    trial = deepcopy(autoencoder)
    per_call = 20
    calls = steps_within(
        settings.autoencoder_seconds,
        lambda: train_autoencoder(trial, images, steps=per_call, **options),
        warm_up=1,
        timed=1,
        least=2,
    )
    train_autoencoder(autoencoder, images, steps=calls * per_call, **options)
    equalize_latent_channels(autoencoder, images[:STATISTICS_IMAGES])
    set_latent_statistics(autoencoder, images[:STATISTICS_IMAGES])
    return autoencoder


def psnr(autoencoder: AutoencoderKL, images: torch.Tensor) -> float:
    """Return the mean peak signal-to-noise ratio of reconstructions in decibel."""
    errors = (reconstruct(autoencoder, images) - images).square().flatten(1).mean(1)
    return (-10 * errors.clamp(min=1e-10).log10()).mean().item()


def assemble(autoencoder: AutoencoderKL, train: Split, settings: Settings) -> StableDiffusion3Pipeline:
    """Build the pipeline from a trained autoencoder. Call it with `max_sequence_length=1`, because there is no T5 encoder."""
    return with_text_encoders(build_transformer(settings), autoencoder, train.texts + train.group_texts, settings)


def with_text_encoders(
    transformer: SD3Transformer2DModel, autoencoder: AutoencoderKL | None, captions: list[str], settings
) -> StableDiffusion3Pipeline:
    """Build the pipeline from a transformer and two frozen random text encoders for the words of the captions.

    Args:
        settings: `max_tokens`, `text_width` and `seed` of this or another benchmark.
    """
    tokenizers = [build_word_tokenizer(captions, settings.max_tokens) for _ in range(2)]
    encoders = [
        build_text_encoder(tokenizer, settings.seed + number, settings.text_width)
        for number, tokenizer in enumerate(tokenizers)
    ]
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder,
        text_encoder=encoders[0],
        tokenizer=tokenizers[0],
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizers[1],
        text_encoder_3=None,
        tokenizer_3=None,
    )
