"""Run the model once on a blank sample, to find unsupported sizes before anything is encoded."""

import copy
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition
from ..configuration import TwinFlowConfigError
from ..families import Family
from ..methods.rng_snapshot import RNGSnapshot
from ..models import without_targets
from .encoders import moved_to

logger = logging.getLogger(__name__)
AUTOENCODER = "vae"


def blank_latents(
    family: Family,
    pipeline: DiffusionPipeline,
    pixels: torch.Tensor,
    latents_of: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return zeros of the shape of the latents of pixels.

    The autoencoder runs on tensors without values, which takes no time and no memory at any size. If it needs values,
    `latents_of` encodes the pixels.

    Args:
        latents_of: encodes pixels to latents.
    """
    try:
        shape = family.blank_latents(_without_values(pipeline), pixels.to("meta")).shape
    except Exception as error:  # what an autoencoder does without values is not known
        logger.debug(f"the shape of the latents is not known without encoding ({type(error).__name__}: {error})")
        return latents_of(pixels).float()
    return torch.zeros(shape, device=pixels.device)


def _without_values(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Return a copy of a pipeline whose autoencoder has no values. The pipeline and its other components are unchanged."""
    autoencoder: Any = getattr(pipeline, AUTOENCODER, None)
    if autoencoder is None:
        return pipeline
    with torch.device("meta"):
        empty = type(autoencoder).from_config(autoencoder.config).eval()
    torch.nn.Module.to(empty, autoencoder.dtype)  # the method of diffusers warns about some classes
    copied = copy.copy(pipeline)
    setattr(copied, AUTOENCODER, empty)
    return copied


@torch.no_grad()
def check_sizes(
    family: Family,
    pipeline: DiffusionPipeline,
    model: torch.nn.Module,
    latents_of: Callable[[torch.Tensor], torch.Tensor],
    encode_prompts: Callable[..., Condition],
    sizes: list[tuple[int, int]],
    *,
    num_frames: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Call the model once for the tallest and once for the widest of the sizes.

    Args:
        pipeline: the base, with the model.
        latents_of, encode_prompts: latents of pixels, and the condition of prompts.
        sizes: (height, width) of the samples in pixels.
        num_frames: number of frames per video, or `None` for images.
        dtype: dtype of the frozen networks, which is also the dtype of the passes in training.

    Raises:
        TwinFlowConfigError: if the model does not support a size.
    """
    is_half = dtype in (torch.float16, torch.bfloat16)
    autocast = torch.autocast(device.type, dtype) if is_half else nullcontext()
    for height, width in sorted({max(sizes), max(sizes, key=lambda size: size[::-1])}):
        pixels = torch.zeros(1, 3, *([num_frames] if num_frames else []), height, width, device=device)
        is_elsewhere = model.device.type != device.type
        with RNGSnapshot(device).replay(), autocast, moved_to([model] if is_elsewhere else [], device):
            latents = blank_latents(family, pipeline, pixels, latents_of)
            condition = encode_prompts([""], pixels if family.takes_reference_image else None)
            try:
                with without_targets(model):
                    family.velocity(model)(latents, torch.full((1,), 0.5, device=device), None, None, condition)
            except torch.OutOfMemoryError:
                raise
            except (ValueError, RuntimeError, IndexError, AssertionError) as error:
                raise TwinFlowConfigError(
                    f"the base does not support samples of {height} x {width} pixels ({error}). Choose another "
                    "`resolution`, or other `aspect_ratio_buckets`."
                ) from error
