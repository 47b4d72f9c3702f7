"""Read encoded images as `datasets` gives them with `Image(decode=False)`: `{"bytes": ..., "path": ...}`."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import fsspec
from datasets.utils.file_utils import is_local_path
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..image_files import as_rgb, check_regular, decode_image, open_image

TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that can always be converted to RGB."""


def decode(value: dict) -> Image.Image:
    """Decode an image with 8 bits per channel and apply its EXIF orientation."""
    return decode_image(source_of(value))


def measure(value: dict) -> tuple[int, int]:
    """Read a whole image and return its width and height after applying its EXIF orientation.

    A JPEG is decoded at an eighth of its size, which is much faster and still reads the whole file.

    Raises:
        Exception: if the file is damaged, any error of the decoder.
    """
    with open_image(source_of(value)) as image:
        size = image.size
        is_reduced = image.draft(None, (1, 1)) is not None
        image.load()
        if not is_reduced:
            size = image.size  # Pillow rotates a TIFF when it loads it
        if image.mode not in PLAIN_MODES:
            as_rgb(image)
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation is not None:
            ImageOps.exif_transpose(image)
    return size[::-1] if orientation in TURNED else size


def source_of(value: dict) -> BinaryIO | str:
    """Return the input of a decoder: the content in memory, or the path of a local file.

    Raises:
        ValueError, OSError: if the path is not a regular file.
    """
    if value["bytes"] is not None:
        return BytesIO(value["bytes"])
    if not is_local_path(value["path"]):
        return BytesIO(read_content(value))
    check_regular(value["path"])
    return value["path"]


def read_content(value: dict) -> bytes:
    """Return the bytes of the file of an image or a video, from memory or from disk."""
    if value["bytes"] is not None:
        return value["bytes"]
    if is_local_path(value["path"]):
        check_regular(value["path"])
        return Path(value["path"]).read_bytes()
    with fsspec.open(value["path"], "rb") as file:
        return file.read()


def what_is_wrong(error: Exception) -> str:
    """Describe the error of a decoder in words."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if type(error) is ValueError:
        return str(error)
    return f"{type(error).__name__}: {error}"


def content_hash(value: dict | list) -> str:
    """Return the hash of the image's file, or a hash over several files."""
    if isinstance(value, list):
        return hashlib.sha256("".join(map(content_hash, files_of(value))).encode()).hexdigest()
    return hashlib.sha256(read_content(value)).hexdigest()


def files_of(value: dict | list | None) -> list[dict]:
    """Return the files of a row's image, video or list of frames, without missing ones."""
    values = value if isinstance(value, list) else [value]
    return [file for file in values if file and (file.get("bytes") or file.get("path"))]


def path_of(value: dict | list | None) -> str | None:
    """Return the path of the first file, or `None` if it has none."""
    files = files_of(value)
    return files[0].get("path") if files else None
