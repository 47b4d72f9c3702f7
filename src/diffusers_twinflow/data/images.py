"""Encoded images, as `datasets` hands them out with `Image(decode=False)`: `{"bytes": ..., "path": ...}`."""

import hashlib
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

DECODER = datasets.Image()
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def decode(value: dict) -> Image.Image:
    """The image, turned as its EXIF orientation says."""
    return DECODER.decode_example(value)


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, what is transparent on white; 16-bit grey is scaled, where PIL alone would clip it."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def measure(value: dict) -> tuple[int, int]:
    """Width and height of an image that was read to its end, turned as its EXIF orientation says.

    JPEG is decoded at an eighth of its size, which reads all of the file in a fraction of the time.

    Raises:
        Exception: whatever the decoder raises on a file that is broken.
    """
    source = BytesIO(value["bytes"]) if value["bytes"] else value["path"]
    with Image.open(source) as image:
        size, orientation = image.size, image.getexif().get(ExifTags.Base.Orientation)
        image.draft(None, (1, 1))
        image.load()
    return size[::-1] if orientation in TURNED else size


def what_is_wrong(error: Exception) -> str:
    """The error of a decoder in words."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return f"{type(error).__name__}: {error}"


def content_hash(value: dict | list) -> str:
    """Hash of the image's file, or of the hashes of several."""
    if isinstance(value, list):
        return hashlib.sha256("".join(map(content_hash, files_of(value))).encode()).hexdigest()
    return hashlib.sha256(value["bytes"] or Path(value["path"]).read_bytes()).hexdigest()


def files_of(value: dict | list | None) -> list[dict]:
    """The files of a row's image, video or list of frames; those that are not there are left out."""
    values = value if isinstance(value, list) else [value]
    return [file for file in values if file and (file.get("bytes") or file.get("path"))]


def path_of(value: dict | list | None) -> str | None:
    """The path of the first file, where it has one."""
    files = files_of(value)
    return files[0].get("path") if files else None
