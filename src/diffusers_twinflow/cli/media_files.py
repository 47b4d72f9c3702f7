"""Save images and videos as files. Videos are saved as animated WebP or GIF, which every browser plays."""

from collections.abc import Sequence
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..configuration import TwinFlowConfigError
from ..families import family_of


def save_image(frames: Sequence[Image.Image], path: str | Path, pipeline: DiffusionPipeline) -> None:
    """Save an image, or a video if there are several frames.

    Raises:
        TwinFlowConfigError: if the file cannot be written.
    """
    try:
        if len(frames) == 1:
            frames[0].save(path)
        else:
            save_clip(frames, path, pipeline)
    except OSError as error:
        raise TwinFlowConfigError(f"--out={str(path)!r} cannot be written ({error}). Choose another place.") from error


def save_clip(frames: Sequence[Image.Image], path: str | Path, pipeline: DiffusionPipeline) -> None:
    """Save an animation that repeats forever, at the frame rate of the pipeline's base."""
    family = family_of(pipeline)
    if not family.draws_videos:
        raise TypeError(f"A {type(pipeline).__name__} generates images, not videos.")
    duration = round(1000 / family.frame_rate(pipeline))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
