"""Generate the images of a row, each from noise that depends only on the seed, the prompt and its number."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image

from ..families import family_of
from .stock_schedulers import SeededNoise


@dataclass(frozen=True)
class Place:
    """The place of an image in an evaluation.

    Attributes:
        prompt: index of the prompt.
        number: number of the image among the images of the prompt.
        seed: seed of its noise.
    """

    prompt: int
    number: int
    seed: int

    @property
    def file_name(self) -> str:
        return f"{self.prompt:05d}-{self.number:02d}.png"


def places(prompts: Sequence[int], images_per_prompt: int, seed: int) -> list[Place]:
    """Return the places of all images of some prompts.

    Args:
        prompts: indices of the prompts.
        images_per_prompt: number of images per prompt.
        seed: seed of the evaluation. Each image gets another seed.
    """
    return [
        Place(i, number, (seed + i * images_per_prompt + number) % 2**32)
        for i in prompts
        for number in range(images_per_prompt)
    ]


@dataclass(frozen=True)
class Batch:
    """Generated images, and the seconds of the call: text encoders, steps and decoder."""

    images: list[Image.Image]
    seconds: float

    @property
    def pixels(self) -> torch.Tensor:
        """The images as uint8 of shape [N, 3, H, W]."""
        return pixels_of(self.images)


def pixels_of(images: Sequence[Image.Image]) -> torch.Tensor:
    """Return images of one size as uint8 of shape [N, 3, H, W]."""
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()


def draw(
    pipeline: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], steps: int, **call_options: Any
) -> Batch:
    """Generate one image per prompt, each from the noise of its seed.

    Args:
        pipeline: pipeline to generate with.
        call_options: further arguments of the pipeline's call, such as `height`.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    scheduler: Any = pipeline.scheduler
    if isinstance(scheduler, SeededNoise):
        scheduler.generators = generators
    _wait(pipeline)
    started = time.perf_counter()
    images = family_of(pipeline).draw(
        pipeline, list(prompts), num_inference_steps=steps, generator=generators, **call_options
    )
    _wait(pipeline)
    return Batch(images, time.perf_counter() - started)


@contextmanager
def sampled_with(pipeline: DiffusionPipeline, scheduler: SchedulerMixin | None) -> Iterator[None]:
    """Give a pipeline another scheduler inside the `with` block. `None` changes nothing."""
    own: Any = pipeline.scheduler
    pipeline.scheduler = scheduler or own
    try:
        yield
    finally:
        pipeline.scheduler = own


def _wait(pipeline: DiffusionPipeline) -> None:
    """Wait until the device has finished, because calls return before their work is done."""
    if pipeline.device.type == "cuda":
        torch.cuda.synchronize(pipeline.device)
