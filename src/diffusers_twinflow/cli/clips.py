"""Clips as files that any browser plays: animated WebP or GIF, by Pillow alone."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

from ..families import family_of

CLIP_ENDINGS = (".webp", ".gif")


def draws_clips(args: argparse.Namespace) -> bool:
    """Whether what is drawn has several frames."""
    return args.num_frames is not None and args.num_frames > 1


def save_clip(frames: Sequence[Image.Image], path: str | Path, pipeline: DiffusionPipeline) -> None:
    """Write an animation that plays again and again at the frame rate that the pipeline's base was made for."""
    duration = round(1000 / family_of(pipeline).frame_rate(pipeline))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
