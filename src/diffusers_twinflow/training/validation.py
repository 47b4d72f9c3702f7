"""Pictures of a model in training."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid
from PIL import Image

from ..families import family_of
from .rng import RNGSnapshot


@torch.no_grad()
def validation_grid(
    pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int, seed: int, **call_options
) -> Image.Image:
    """A grid with a row a prompt, drawn from the same noise at every call; the global generators stay as they were.

    Args:
        call_options: passed to the pipeline, such as `num_inference_steps`.
    """
    pipeline.set_progress_bar_config(disable=True)
    family = family_of(pipeline)
    model = family.denoiser(pipeline)
    was_training = model.training
    model.eval()
    with RNGSnapshot(pipeline.device).replay():
        generator = torch.Generator("cpu").manual_seed(seed)
        images = family.draw(pipeline, prompts, images_per_prompt, generator=generator, **call_options)
    model.train(was_training)
    return make_image_grid(images, rows=len(prompts), cols=images_per_prompt)


def save_validation_grid(output_dir: str | Path, step: int, grid: Image.Image) -> Path:
    """Write a grid under `output_dir/validation/` and return its path."""
    directory = Path(output_dir) / "validation"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{step:06d}.png"
    grid.save(path)
    return path
