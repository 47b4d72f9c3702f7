"""Run the model once on a blank sample, to find unsupported sizes before anything is encoded."""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from ..conditions import Condition
from ..configuration import TwinFlowConfigError
from ..families import Family
from ..methods.rng_snapshot import RNGSnapshot
from ..models import without_targets
from .encoders import moved_to


@torch.no_grad()
def check_sizes(
    family: Family,
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
            latents = latents_of(pixels).float()
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
