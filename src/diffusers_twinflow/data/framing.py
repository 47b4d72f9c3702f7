"""Resize, crop and flip images to the training size."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.training_utils import find_nearest_bucket, generate_aspect_ratio_buckets, parse_buckets_string
from PIL import Image

from ..configuration import TwinFlowConfigError
from ..image_files import as_rgb
from .draws import SampleDraw

AUTO = "auto"


def parse_buckets(text: str | None, resolution: int, divisor: int) -> tuple[tuple[int, int], ...]:
    """Parse the training sizes.

    Args:
        text: `None` for one square, "auto" for the usual aspect ratios with about `resolution ** 2` pixels, or a list
            of heights and widths such as "512,512;448,576".
        resolution: side length of the square in pixels.
        divisor: every side must be a multiple of this number.

    Returns:
        The sizes as (height, width) in pixels.

    Raises:
        TwinFlowConfigError: if the list is not valid, or a side is not a multiple of `divisor`.
    """
    if text == AUTO:
        return tuple(generate_aspect_ratio_buckets(resolution, divisibility=divisor))
    if not text:
        sizes, option = [(resolution, resolution)], f"resolution={resolution}"
    else:
        option = f"aspect_ratio_buckets='{text}'"
        try:
            sizes = parse_buckets_string(text)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise TwinFlowConfigError(f"{option}: {reason}. Write 'auto' or 'height,width;height,width'.") from error
    for side in {side for size in sizes for side in size}:
        if side % divisor or side < 1:
            near = max(divisor, round(side / divisor) * divisor)
            raise TwinFlowConfigError(
                f"{option} is not valid for this model: {side} is not a multiple of {divisor}. Use a multiple, such as "
                f"{near}."
            )
    return tuple(sizes)


@dataclass(frozen=True)
class Framing:
    """How images are resized, cropped and flipped.

    Attributes:
        buckets: training sizes as (height, width). Each image uses the size with the nearest aspect ratio.
        center_crop: crop the middle. If `False`, crop a random place for each sample.
        random_flip: mirror half of the samples.
    """

    buckets: tuple[tuple[int, int], ...]
    center_crop: bool = True
    random_flip: bool = False

    def bucket_of(self, width: int, height: int) -> int:
        """Return the index of the bucket for an image of this size."""
        return find_nearest_bucket(height, width, self.buckets)

    def pixels(self, image: Image.Image | list[Image.Image], bucket: int, draw: SampleDraw) -> torch.Tensor:
        """Resize an image to cover the bucket, then crop and flip it. Frames of a video are all treated alike.

        Returns:
            Pixels in [-1, 1] of shape [3, height, width], or [3, frames, height, width] for a video.
        """
        if isinstance(image, list):
            return torch.stack([self.pixels(frame, bucket, draw) for frame in image], dim=1)
        height, width = self.buckets[bucket]
        left, top = (0.5, 0.5) if self.center_crop else (draw.left, draw.top)
        image = _cover(as_rgb(image), width, height, left, top)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
        return pixels.flip(-1) if self.flips(draw) else pixels

    def crops_freely(self, width: int, height: int) -> bool:
        """Return whether an image of this size is cropped at a different place each time."""
        bucket_height, bucket_width = self.buckets[self.bucket_of(width, height)]
        return not self.center_crop and _covering(width, height, bucket_width, bucket_height) != (
            bucket_width,
            bucket_height,
        )

    def flips(self, draw: SampleDraw) -> bool:
        """Return whether the sample with this draw is mirrored."""
        return self.random_flip and draw.flip < 0.5


def _cover(image: Image.Image, width: int, height: int, left: float, top: float) -> Image.Image:
    if image.size == (width, height):
        return image
    resized = _covering(*image.size, width, height)
    image = image.resize(resized, Image.Resampling.LANCZOS)
    x, y = int(left * (resized[0] - width + 1)), int(top * (resized[1] - height + 1))
    return image.crop((x, y, x + width, y + height))


def _covering(width: int, height: int, bucket_width: int, bucket_height: int) -> tuple[int, int]:
    """Return the smallest width and height with the image's aspect ratio that cover the bucket."""
    scale = max(bucket_width / width, bucket_height / height)
    return max(bucket_width, round(width * scale)), max(bucket_height, round(height * scale))
