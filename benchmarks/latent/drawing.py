"""Generate the images of a row, with a diffusers pipeline or with a function from noise to latents."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusion3Pipeline

from diffusers_twinflow import TwinFlowPipeline
from quality.sampling import Sampler

Condition = dict[str, torch.Tensor]
Sample = Callable[[torch.Tensor, Condition, int], torch.Tensor]
"""Takes noise, the condition and the number of steps, and returns latents."""


def load_base(directory: Path, autoencoder: AutoencoderTiny, device: torch.device) -> StableDiffusion3Pipeline:
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(directory, vae=autoencoder, **absent).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_distilled(
    directory: Path, base: Path, autoencoder: AutoencoderTiny, device: torch.device, train_type: str
) -> TwinFlowPipeline:
    options = {"base_model": str(base)} if train_type == "lora" else {}
    pipeline = TwinFlowPipeline.from_pretrained(directory, vae=autoencoder, **options).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Artist:
    """Generates images of the prompts of an evaluation, always from the same noise.

    Args:
        base: pipeline of the base, with the autoencoder.
        prompts: one prompt per image.
        shape: shape of the latents of one image.
        batch_size: images per call.
    """

    def __init__(
        self, base: StableDiffusion3Pipeline, prompts: list[str], shape: tuple[int, ...], seed: int, batch_size: int
    ):
        self.base = base
        noise = torch.randn(len(prompts), *shape, generator=torch.Generator().manual_seed(seed))
        self.sampler = Sampler(base, prompts, noise, seed, batch_size)

    def with_pipeline(self, pipeline, steps: int, **options) -> tuple[torch.Tensor, float]:
        """Generate with a pipeline. Returns uint8 images on the CPU and seconds per image; see `Sampler.draw` for options."""
        return self._timed(lambda: self.sampler.draw(pipeline, steps, **options))

    def with_function(self, sample: Sample, steps: int) -> tuple[torch.Tensor, float]:
        """Generate with a function. Returns uint8 images on the CPU and seconds per image."""
        return self._timed(lambda: self.sampler.draw_with(self.base, lambda noise, c: sample(noise, c, steps)))

    def _timed(self, draw: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
        start = time.perf_counter()
        images = as_bytes(draw())
        return images, (time.perf_counter() - start) / len(images)


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    """Return images in [0, 1] as uint8 on the CPU. This waits for the device."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
