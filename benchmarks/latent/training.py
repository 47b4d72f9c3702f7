"""Train the base and distil it, on latents that were encoded once."""

from collections.abc import Sequence
from pathlib import Path

import torch
from build_base import zero_initialize
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.methods import FlowMatching, TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from quality.building import with_text_encoders

from .autoencoder import LATENT_CHANNELS
from .data import Encoded
from .settings import Settings

FAMILY = FAMILIES["stable_diffusion_3"]
HEAD_DIM = 64
MAX_SEQUENCE_LENGTH = 1  # there is no T5 encoder


def build_pipeline(captions: Sequence[str], settings: Settings) -> StableDiffusion3Pipeline:
    """Build the untrained base: real classes, frozen random text encoders, no autoencoder."""
    side, width = settings.image_size // 8, settings.num_heads * HEAD_DIM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        transformer = SD3Transformer2DModel(
            sample_size=side,
            patch_size=2,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=settings.num_layers,
            attention_head_dim=HEAD_DIM,
            num_attention_heads=settings.num_heads,
            joint_attention_dim=2 * settings.text_width,
            caption_projection_dim=width,
            pooled_projection_dim=2 * settings.text_width,
            pos_embed_max_size=side // 2,
            qk_norm="rms_norm",
        )
    zero_initialize(transformer)
    return with_text_encoders(transformer, None, list(captions), settings)


@torch.no_grad()
def encode_captions(pipeline: StableDiffusion3Pipeline, captions: Sequence[str]) -> dict[str, torch.Tensor]:
    """Encode captions to conditions by name, each of shape [N, ...]."""
    return FAMILY.encode_prompts(pipeline, list(captions), MAX_SEQUENCE_LENGTH)


def train_base(base: Path, samples: Encoded, output_dir: Path, settings: Settings) -> None:
    """Train all weights of the base with flow matching, and save the averaged weights as a pipeline."""
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        train_type="full",
        use_ema=True,
        flow_matching_ema_decay=0.999,
        learning_rate=3e-4,
        lr_scheduler="warmup_stable_decay",
        lr_decay_share=0.2,
        lr_warmup_steps=min(500, settings.base_steps // 2),
        max_train_steps=settings.base_steps,
        train_batch_size=settings.base_batch_size,
        checkpointing_steps=settings.base_steps + 1,
        **_shared(settings),
    )
    data = LatentBatches(samples, seed=settings.seed, batch_size=settings.base_batch_size)
    Trainer(str(base), arguments, FlowMatching(), data).train()


def distil(base: Path, samples: Encoded, output_dir: Path, settings: Settings, train_type: str) -> None:
    """Distil the base with the recommended recipe."""
    config = TwinFlowConfig.recommended(train_type=train_type, twinflow_target_step_count=2)
    options = {
        "output_dir": str(output_dir),
        "train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": 1,
        "max_train_steps": settings.steps,
        "caption_dropout_probability": 0.0,  # the samples have empty prompts already
        "checkpointing_steps": settings.steps + 1,
        "lr_warmup_steps": min(25, settings.steps // 2),
        **_shared(settings),
    }
    arguments = TrainingArguments.recommended(train_type=train_type, **options)
    data = LatentBatches(samples, seed=settings.seed, batch_size=settings.batch_size, empty_condition=samples.empty)
    Trainer(str(base), arguments, TwinFlow(config), data).train()


def _shared(settings: Settings) -> dict[str, object]:
    is_gpu = torch.cuda.is_available()
    return {
        "max_sequence_length": MAX_SEQUENCE_LENGTH,
        "mixed_precision": "bf16" if is_gpu else "no",
        "compile": is_gpu,
        "seed": settings.seed,
    }
