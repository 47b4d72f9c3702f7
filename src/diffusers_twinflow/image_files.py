"""Open image files safely: only regular files, and only the formats listed here."""

import os
import stat
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .configuration import TwinFlowConfigError

TIMEOUT = 60
"""Seconds after which a server that does not answer is an error."""
FORMATS = (
    "AVIF",
    "BMP",
    "DDS",
    "DIB",
    "GIF",
    "ICNS",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
    "HEIF",
    "JXL",
)
"""Pillow's names of the supported formats. Pillow decodes them without other programs, which PostScript would start.
HEIF and JPEG XL need a registered Pillow plugin."""
PLUGIN_SUFFIXES = {".avif", ".heic", ".heif", ".hif", ".jxl"}
"""Suffixes of formats that Pillow may lack. Such files count as images even if they cannot be read."""
FILE_KINDS = {stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
EIGHT_BITS = 8
OVERSHOOT = 1 / 255


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files, in lower case and with their dot."""
    return frozenset({suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}) | (
        PLUGIN_SUFFIXES
    )


def check_regular(path: str | Path) -> None:
    """Check that a path is a regular file. Opening a FIFO, for example, would block.

    Raises:
        ValueError: if it is not a regular file.
        OSError: if it does not exist.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"not a file but {kind_of_file(status.st_mode)}")


def kind_of_file(mode: int) -> str:
    """Return what a path with this `st_mode` is, if it is not a regular file."""
    return next((name for matches, name in FILE_KINDS.items() if matches(mode)), "a device")


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """Open an image in one of `FORMATS`. Its pixels are read later.

    Raises:
        PIL.UnidentifiedImageError: if the content has none of these formats.
        ValueError: if the path is not a regular file, or the file is empty.
    """
    if isinstance(source, (str, Path)):
        check_regular(source)
    if _is_empty(source):
        raise ValueError("the file is empty")
    Image.init()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


def _is_empty(source: str | Path | BinaryIO) -> bool:
    if isinstance(source, (str, Path)):
        return not os.path.getsize(source)
    return not source.seek(0, os.SEEK_END)


def decode_image(source: str | Path | BinaryIO) -> Image.Image:
    """Read an image with 8 bits per channel, rotated according to its EXIF orientation."""
    with open_image(source) as image:
        return ImageOps.exif_transpose(with_8_bits(image))


def load_image(path_or_url: str, *, option: str) -> Image.Image:
    """Read an image from a file or a URL, in 8-bit RGB.

    Args:
        path_or_url: path or URL of the image.
        option: the option that names the image, for the error.

    Raises:
        TwinFlowConfigError: if the image does not exist or cannot be read.
    """
    reason: str
    cause: Exception
    try:
        return as_rgb(decode_image(_content_at(path_or_url)))
    except UnidentifiedImageError as error:
        reason, cause = f"it has none of the supported formats {', '.join(FORMATS)}", error
    except (OSError, ValueError, HTTPException) as error:
        reason, cause = str(error), error
    raise TwinFlowConfigError(
        f"{option} {path_or_url} cannot be read ({reason}): pass the path or the URL of an image."
    ) from cause


def _content_at(path_or_url: str) -> str | BinaryIO:
    if not path_or_url.startswith(("http://", "https://")):
        return path_or_url
    with urlopen(path_or_url, timeout=TIMEOUT) as response:
        return BytesIO(response.read())


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, with white behind transparent areas."""
    image = with_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def with_8_bits(image: Image.Image) -> Image.Image:
    """Scale gray images with more than 8 bits, which Pillow would clip. Other images are returned unchanged.

    Integers are scaled by the number of bits that the file declares. A 32-bit file whose values all fit into 16 bits is
    scaled as a 16-bit one. Floats must be between 0 and 1.

    Raises:
        ValueError: if floats are out of this range (HDR), or if integers are negative.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        values = _bytes_of_floats(values)
    else:
        values = _bytes_of_integers(values, *_sample_type(image))
    scaled = Image.fromarray(values)
    scaled.getexif().update(image.getexif())
    return scaled


def _bytes_of_floats(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise ValueError(
            f"a float image with values from {low:g} to {high:g}, but HDR images are not supported. Scale the values to "
            "0..1, or save the image with 8 or 16 bits per channel"
        )
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


def _bytes_of_integers(values: np.ndarray, bits: int, is_signed: bool) -> np.ndarray:
    values = values if is_signed or bits < 32 else values.astype(np.int32, copy=False).view(np.uint32)
    if values.min() < 0:
        raise ValueError(
            f"an image of signed integers, from {values.min()} to {values.max()}. Save it with unsigned integers"
        )
    if bits == 32 and values.max() < 2**16:
        bits, is_signed = 16, False
    return (values >> (bits - is_signed - EIGHT_BITS)).astype(np.uint8)


def _sample_type(image: Image.Image) -> tuple[int, bool]:
    """Return the bits per value and whether values are signed. The default is 16 unsigned bits."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return (32, True) if image.format is None and image.mode == "I" else (16, False)
    bits, sample_format = tags.get(258, (16,)), tags.get(339, (1,))
    return bits[0], sample_format[0] == 2
