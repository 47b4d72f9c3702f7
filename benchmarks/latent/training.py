"""Train the base and distill it, on latents that were encoded once."""

from collections.abc import Sequence
from pathlib import Path

import torch
from build_base import zero_initialize
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.methods import FlowMatching, TwinFlow
from diffusers_twinflow.training import TrainingArguments
from quality.building import with_text_encoders

from .autoencoder import LATENT_CHANNELS
from .data import Encoded
from .settings import Settings
from .timed import Clock, TimedTrainer, Usage

FAMILY = FAMILIES["stable_diffusion_3"]
HEAD_DIM = 64
MAX_SEQUENCE_LENGTH = 1  # there is no T5 encoder
BASE_LEARNING_RATE = 3e-4
BASE_DECAY_SHARE = 0.2
MOST_STEPS = 1_000_000  # the clock ends a run earlier


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


def train_base(base: Path, samples: Encoded, output_dir: Path, settings: Settings, minutes: float) -> Usage:
    """Train all weights of the base with flow matching, and save the averaged weights as a pipeline."""
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        train_type="full",
        use_ema=True,
        flow_matching_ema_decay=0.999,
        learning_rate=BASE_LEARNING_RATE,
        train_batch_size=settings.base_batch_size,
        **_shared(settings),
    )
    clock = Clock(minutes, settings.warm_up_steps, BASE_DECAY_SHARE)
    data = LatentBatches(samples, seed=settings.seed, batch_size=settings.base_batch_size)
    TimedTrainer(clock, str(base), arguments, FlowMatching(), data).train()
    return clock.usage()


def recommended_options(
    settings: Settings, train_type: str, batch_size: int
) -> tuple[TwinFlowConfig, dict[str, object]]:
    """Return the recommended recipe for short runs, and the options that this benchmark adds to it."""
    config = TwinFlowConfig.recommended(train_type=train_type, length="short", twinflow_target_step_count=2)
    return config, {
        "train_batch_size": batch_size,
        "gradient_accumulation_steps": 1,
        "caption_dropout_probability": 0.0,  # the samples have empty prompts already
        **_shared(settings),
    }


def distil(
    base: Path, samples: Encoded, output_dir: Path, settings: Settings, train_type: str, minutes: float
) -> tuple[Usage, dict[str, object]]:
    """Distill the base with the recommended recipe. Returns what it used, and the options that are not defaults."""
    config, options = recommended_options(settings, train_type, samples.batch_size)
    options["output_dir"] = str(output_dir)
    arguments = TrainingArguments.recommended(train_type=train_type, length="short", **options)
    data = LatentBatches(samples, seed=settings.seed, batch_size=samples.batch_size, empty_condition=samples.empty)
    clock = Clock(minutes, arguments.lr_warmup_steps, arguments.lr_decay_share)
    trainer = TimedTrainer(clock, str(base), arguments, TwinFlow(config), data)
    trainer.train()
    defaults = TrainingArguments().to_dict() | TwinFlowConfig().to_dict()
    given = {
        name: value
        for name, value in trainer.options.items()
        if value != defaults.get(name) and name not in ("output_dir", "pretrained_model_name_or_path")
    }
    return clock.usage(), given


def _shared(settings: Settings) -> dict[str, object]:
    is_gpu = torch.cuda.is_available()
    return {
        "max_train_steps": MOST_STEPS,
        "checkpointing_steps": MOST_STEPS,
        "max_sequence_length": MAX_SEQUENCE_LENGTH,
        "mixed_precision": "bf16" if is_gpu else "no",
        "compile": is_gpu,
        "seed": settings.seed,
    }
