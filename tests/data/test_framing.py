import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.draws import SampleDraw
from diffusers_twinflow.data.framing import Framing, parse_buckets
from diffusers_twinflow.image_files import as_rgb

MIDDLE = SampleDraw(0.5, 0.5, 0.5, 0.5, 0.9)
SIDES = st.integers(1, 100)


def columns(width: int, height: int) -> Image.Image:
    """An image whose grey is the number of its column."""
    return Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (height, 1)))


def grey(pixels: torch.Tensor) -> list[int]:
    return ((pixels[0, 0] + 1) * 127.5).round().int().tolist()


@given(SIDES, SIDES, st.booleans(), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_any_image_gets_the_size_of_its_bucket(width, height, center, left, top):
    framing = Framing(((32, 32), (24, 48), (48, 24)), center_crop=center)
    bucket = framing.bucket_of(width, height)
    pixels = framing.pixels(columns(width, height), bucket, SampleDraw(0, 0, left, top, 0))
    assert pixels.shape == (3, *framing.buckets[bucket])
    assert pixels.min() >= -1 and pixels.max() <= 1


def test_the_bucket_is_the_nearest_in_shape():
    framing = Framing(((32, 32), (24, 48), (48, 24)))
    assert [framing.buckets[framing.bucket_of(*size)] for size in ((500, 510), (640, 300), (200, 500))] == [
        (32, 32),
        (24, 48),
        (48, 24),
    ]


def test_crops_from_the_middle_or_from_the_drawn_place():
    image = columns(20, 10)
    assert grey(Framing(((10, 10),)).pixels(image, 0, MIDDLE)) == list(range(5, 15))
    framing = Framing(((10, 10),), center_crop=False)
    for left, first in ((0.0, 0), (0.999, 10), (0.3, 3)):
        assert grey(framing.pixels(image, 0, MIDDLE._replace(left=left))) == list(range(first, first + 10))


def test_flips_half_of_the_samples_and_mirrors_them():
    framing = Framing(((10, 10),), random_flip=True)
    assert grey(framing.pixels(columns(10, 10), 0, MIDDLE._replace(flip=0.1))) == list(range(9, -1, -1))
    assert np.mean([framing.flips(SampleDraw.at(0, position)) for position in range(2000)]) == pytest.approx(
        0.5, abs=0.05
    )
    assert not Framing(((10, 10),)).flips(MIDDLE._replace(flip=0.1))


def test_which_crops_are_free():
    framing = Framing(((32, 32),), center_crop=False)
    assert not framing.crops_freely(64, 64) and framing.crops_freely(64, 70)
    assert not Framing(((32, 32),)).crops_freely(64, 70)


def test_sixteen_bits_are_scaled_and_transparency_is_white():
    ramp = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    assert len(np.unique(np.array(as_rgb(ramp)))) == 256
    assert as_rgb(Image.new("RGBA", (1, 1), (10, 20, 30, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(Image.new("RGBA", (1, 1), (10, 20, 30, 255))).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("resolution", [64, 512, 1024])
def test_automatic_buckets_hold_about_as_many_pixels_as_the_square(resolution):
    buckets = parse_buckets("auto", resolution, 16)
    assert len(set(buckets)) == len(buckets) and (resolution, resolution) in buckets
    for height, width in buckets:
        assert height % 16 == width % 16 == 0
        assert height * width == pytest.approx(resolution**2, rel=0.35 if resolution == 64 else 0.08)


def test_buckets_as_given():
    assert parse_buckets(None, 48, 16) == ((48, 48),)
    assert parse_buckets("32,64;64,32", 48, 16) == ((32, 64), (64, 32))


@pytest.mark.parametrize(
    ("text", "resolution", "message"),
    [
        ("32,60", 64, "aspect_ratio_buckets='32,60' is not valid.*: 60 is not a multiple of 16.*such as 64"),
        ("wide", 64, "aspect_ratio_buckets='wide'.*height,width"),
        ("0,16", 64, "aspect_ratio_buckets='0,16'.*positive"),
        (None, 50, "resolution=50 is not valid.*: 50 is not a multiple of 16.*such as 48"),
    ],
)
def test_bad_sizes_are_named(text, resolution, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        parse_buckets(text, resolution, 16)
