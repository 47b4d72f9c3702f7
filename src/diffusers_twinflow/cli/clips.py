"""Drawn images and clips as files; clips are animated WebP or GIF, which any browser plays."""

from collections.abc import Sequence
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..configuration import TwinFlowConfigError
from ..families import family_of
from ..families.video import VideoFamily


def save_image(frames: Sequence[Image.Image], path: str | Path, pipeline: DiffusionPipeline) -> None:
    """Write a drawn image, or a clip of several frames.

    Raises:
        TwinFlowConfigError: if the file cannot be written.
    """
    try:
        if len(frames) == 1:
            frames[0].save(path)
        else:
            save_clip(frames, path, pipeline)
    except OSError as error:
        raise TwinFlowConfigError(f"--out={str(path)!r} cannot be written ({error}).") from error


def save_clip(frames: Sequence[Image.Image], path: str | Path, pipeline: DiffusionPipeline) -> None:
    """Write an animation that repeats forever, at the frame rate that the pipeline's base was made for."""
    family = family_of(pipeline)
    if not isinstance(family, VideoFamily):
        raise TypeError(f"A {type(pipeline).__name__} draws single images, which are no clip.")
    duration = round(1000 / family.frame_rate(pipeline))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
