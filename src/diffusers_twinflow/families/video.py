import torch

from ..configuration import TwinFlowConfigError
from .base import Family


def as_video(pixels: torch.Tensor, temporal_compression: int) -> torch.Tensor:
    """Pixels of shape [B, 3, F, H, W]; images, shape [B, 3, H, W], become videos of one frame.

    Args:
        temporal_compression: frames of one latent frame after the first.

    Raises:
        TwinFlowConfigError: where the autoencoder would leave out frames.
    """
    video = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
    frames = video.shape[2]
    if frames % temporal_compression != 1 % temporal_compression:
        below = (frames - 1) // temporal_compression * temporal_compression + 1
        raise TwinFlowConfigError(
            f"videos of {frames} frames do not fit an autoencoder that takes the first frame and then "
            f"{temporal_compression} at a time: cut them to {below} or pad them to {below + temporal_compression}."
        )
    return video


class VideoFamily(Family):
    """A base that draws videos: latents of shape [B, C, f, h, w], an image is a video of one frame."""

    def draw(self, pipeline, prompts, images_per_prompt=1, **call_options):
        """The first frame of each video; `num_frames` is 1 where the call does not say otherwise."""
        options = {"num_frames": 1, "output_type": "pil"} | call_options
        frames = pipeline(prompt=prompts, num_videos_per_prompt=images_per_prompt, **options).frames
        return [video[0] for video in frames]
