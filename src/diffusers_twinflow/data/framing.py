"""How an image is cut to the size that is trained."""

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
    """The sizes to train, as (height, width).

    Args:
        text: `None` for one square, "auto" for the usual ratios at about `resolution ** 2` pixels, or a list such as
            "512,512;448,576" of heights and widths.
        divisor: what the model needs every side to be a multiple of.

    Raises:
        TwinFlowConfigError: where the list cannot be read or a side is no multiple of `divisor`.
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
            raise TwinFlowConfigError(f"{option}: sides must be multiples of {divisor}, which {side} is not.")
    return tuple(sizes)


@dataclass(frozen=True)
class Framing:
    """
    Attributes:
        buckets: the sizes to train, as (height, width); an image goes to the one nearest in shape.
        center_crop: cut the middle out; otherwise a place drawn for each sample.
        random_flip: mirror half of the samples.
    """

    buckets: tuple[tuple[int, int], ...]
    center_crop: bool = True
    random_flip: bool = False

    def bucket_of(self, width: int, height: int) -> int:
        """The bucket of an image of that size."""
        return find_nearest_bucket(height, width, self.buckets)

    def pixels(self, image: Image.Image | list[Image.Image], bucket: int, draw: SampleDraw) -> torch.Tensor:
        """Pixels in [-1, 1], shape [3, height, width]: resized to cover the bucket, then cropped and flipped.

        Frames of a clip are all cut alike, shape [3, frames, height, width].
        """
        if isinstance(image, list):
            return torch.stack([self.pixels(frame, bucket, draw) for frame in image], dim=1)
        height, width = self.buckets[bucket]
        left, top = (0.5, 0.5) if self.center_crop else (draw.left, draw.top)
        image = _cover(as_rgb(image), width, height, left, top)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
        return pixels.flip(-1) if self.flips(draw) else pixels

    def crops_freely(self, width: int, height: int) -> bool:
        """Whether an image of that size is cut at a place that differs from visit to visit."""
        bucket_height, bucket_width = self.buckets[self.bucket_of(width, height)]
        return not self.center_crop and _covering(width, height, bucket_width, bucket_height) != (
            bucket_width,
            bucket_height,
        )

    def flips(self, draw: SampleDraw) -> bool:
        """Whether the sample of that draw is mirrored."""
        return self.random_flip and draw.flip < 0.5


def _cover(image: Image.Image, width: int, height: int, left: float, top: float) -> Image.Image:
    if image.size == (width, height):
        return image
    resized = _covering(*image.size, width, height)
    image = image.resize(resized, Image.Resampling.LANCZOS)
    x, y = int(left * (resized[0] - width + 1)), int(top * (resized[1] - height + 1))
    return image.crop((x, y, x + width, y + height))


def _covering(width: int, height: int, bucket_width: int, bucket_height: int) -> tuple[int, int]:
    """The smallest width and height of the image's shape that cover the bucket."""
    scale = max(bucket_width / width, bucket_height / height)
    return max(bucket_width, round(width * scale)), max(bucket_height, round(height * scale))
