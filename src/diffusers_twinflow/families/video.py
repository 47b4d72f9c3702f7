"""The base class of families of models that generate videos."""

from typing import Any, overload

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import make_image_grid
from PIL import Image

from ..configuration import TwinFlowConfigError
from .base import Family, call_pipeline

STRIP_FRAMES = 4


def as_video(pixels: torch.Tensor, temporal_compression: int) -> torch.Tensor:
    """Return pixels as videos, shape [B, 3, F, H, W]. Images become videos of one frame.

    Args:
        pixels: images of shape [B, 3, H, W] or videos of shape [B, 3, F, H, W].
        temporal_compression: number of frames per latent frame, after the first frame.

    Raises:
        TwinFlowConfigError: if the autoencoder would drop frames.
    """
    video = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
    check_frames(video.shape[2], temporal_compression)
    return video


def check_frames(num_frames: int, temporal_compression: int) -> None:
    """Raise a `TwinFlowConfigError` if there is no frame, or if an autoencoder would drop frames."""
    if num_frames < 1:
        raise TwinFlowConfigError(f"num_frames={num_frames} must be 1 or more.")
    if num_frames % temporal_compression != 1 % temporal_compression:
        below = (num_frames - 1) // temporal_compression * temporal_compression + 1
        raise TwinFlowConfigError(
            f"num_frames={num_frames} is not valid: videos of {num_frames} frames do not fit the autoencoder, which takes "
            f"the first frame and then {temporal_compression} at a time, so cut them to {below} or pad them to "
            f"{below + temporal_compression}."
        )


def check_draws_videos(family: Family, num_frames: int | None) -> None:
    """Check that a number of frames is given only for a base that generates videos.

    Raises:
        TwinFlowConfigError: if `num_frames` is given and the base generates images.
    """
    if num_frames is not None and not family.draws_videos:
        raise TwinFlowConfigError(
            f"num_frames={num_frames} is not valid for {family.pipeline_class.__name__}, which generates no videos: "
            "leave it out."
        )


class VideoFamily(Family):
    """A family of models that generate videos. Latents have shape [B, C, f, h, w]. An image is a one-frame video."""

    task = "text-to-video"
    output_name = "frames"
    draws_videos = True

    def temporal_compression(self, pipeline: DiffusionPipeline) -> int:
        """Return the number of frames per latent frame, after the first frame."""
        raise NotImplementedError

    def check_num_frames(self, pipeline: DiffusionPipeline, num_frames: int) -> None:
        """Raise a `TwinFlowConfigError` if videos with this number of frames cannot be encoded."""
        check_frames(num_frames, self.temporal_compression(pipeline))

    def draw(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[Image.Image]:
        """Generate videos, and return a strip of frames of each."""
        return [strip(video) for video in self.draw_frames(pipeline, prompts, images_per_prompt, **call_options)]

    def draw_frames(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[list[Image.Image]]:
        """Generate videos, and return all their frames. `num_frames` defaults to 1."""
        options = {"num_frames": 1, "output_type": "pil"} | call_options
        return call_pipeline(pipeline, prompt=prompts, num_videos_per_prompt=images_per_prompt, **options).frames


@overload
def strip(frames: list[Image.Image]) -> Image.Image: ...
@overload
def strip(frames: torch.Tensor) -> torch.Tensor: ...
def strip(frames: list[Image.Image] | torch.Tensor) -> Image.Image | torch.Tensor:
    """Put at most four frames of a video side by side, evenly spaced from the first to the last.

    Args:
        frames: images, or pixels of shape [F, 3, H, W].

    Returns:
        An image, or pixels of shape [3, H, W'].
    """
    count = min(len(frames), STRIP_FRAMES)
    chosen = [i * (len(frames) - 1) // max(count - 1, 1) for i in range(count)]
    if isinstance(frames, torch.Tensor):
        return torch.cat([frames[i] for i in chosen], dim=-1)
    return make_image_grid([frames[i] for i in chosen], 1, count)
