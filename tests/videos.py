"""Small real videos, written frame by frame."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

CODECS = {".mp4": ("libx264", "yuv420p"), ".mkv": ("libx264", "yuv420p"), ".webm": ("libvpx-vp9", "yuv420p")}


def frames(count: int, size: tuple[int, int] = (32, 32), first: int = 0) -> list[Image.Image]:
    """Grey frames that tell their number: 20 times it, as bright; size is (width, height)."""
    return [Image.new("RGB", size, (20 * (first + i),) * 3) for i in range(count)]


def numbers(images: list[Image.Image]) -> list[int]:
    """What `frames` wrote into them, which survives compression."""
    return [round(np.asarray(image.convert("L")).mean() / 20) for image in images]


def write_video(path: Path, images: list[Image.Image], fps: int = 10) -> Path:
    """A video file of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gif", ".webp"):
        images[0].save(path, save_all=True, append_images=images[1:], duration=1000 // fps, lossless=True)
        return path
    codec, pixel_format = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = *images[0].size, pixel_format
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path
