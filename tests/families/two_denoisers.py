"""A tiny Wan with two denoisers, and runs that train both."""

from pathlib import Path

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.families import kit, tiny_videos
from tests.fresh_accelerator import fresh_accelerator

FAMILY = FAMILIES["wan"]
BOUNDARY = 0.875
NAMES = ["transformer", "transformer_2"]
CALL = {"prompt": "a", "height": 16, "width": 16, "num_frames": 1, "max_sequence_length": 8, "output_type": "latent"}


def build():
    pipeline = tiny_videos.wan(transformer_2=tiny_videos.wan_transformer(), boundary_ratio=BOUNDARY)
    for denoiser in FAMILY.denoisers(pipeline).values():
        kit.fill_zeros(denoiser)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def train(base: Path, output: Path, method=None, resume=None, **options) -> Trainer:
    arguments = TrainingArguments(
        str(base),
        output_dir=str(output),
        **{
            "resolution": 16,
            "max_sequence_length": 8,
            "train_batch_size": 4,
            "max_train_steps": 2,
            "learning_rate": 1e-2,
            "rank": 2,
            "save_ema": False,
            **options,
        },
    )
    with fresh_accelerator():
        trainer = Trainer(None, arguments, method or image_free())
        trainer.train(resume)
    return trainer


def image_free() -> TwinFlow:
    config = TwinFlowConfig(
        twinflow_enabled=True,
        twinflow_image_free=True,
        twinflow_adversarial_enabled=True,
        twinflow_target_step_count=2,
    )
    return TwinFlow(config)


def run_options(prompts_file: Path) -> dict:
    return {
        "prompts_file": str(prompts_file),
        "checkpointing_steps": 1,
        "save_ema": True,
        "validation_prompts": ["a"],
        "validation_base_steps": 2,
        "validation_step_counts": [1, 2],
        "num_validation_images": 1,
    }
