"""Captioned drawings: Fluent Emoji in 3D from two npm packages, or plain shapes for a rehearsal.

    npm pack @lobehub/fluent-emoji-3d && npm pack emoji-datasource-google
    mkdir fluent google
    tar xzf lobehub-fluent-emoji-3d-*.tgz -C fluent && tar xzf emoji-datasource-google-*.tgz -C google

Drawings: Fluent Emoji (c) Microsoft, MIT, packaged by LobeHub, MIT. Names: emoji-data (c) Cal Henderson, MIT. Nothing of it
is in this repository.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from diffusers_twinflow.image_files import as_rgb, decode_image
from quality.prepare_data import read_items

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "pink")
SHAPES = ("circle", "square", "triangle", "line")


@dataclass(frozen=True)
class Drawing:
    """A drawing and its caption."""

    image: Image.Image
    caption: str


def read_emoji(fluent: Path, names: Path, size: int, limit: int | None = None) -> list[Drawing]:
    """Read the drawings that have a name, on white.

    Args:
        fluent: unpacked package @lobehub/fluent-emoji-3d.
        names: unpacked package emoji-datasource-google.
        size: side of the images in pixels.
        limit: number of drawings to read; all by default.
    """
    folder = fluent / "assets"
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder}: unpack @lobehub/fluent-emoji-3d and give --fluent DIR/package.")
    found = []
    for name, item in read_items(names, "google").items():
        path = (folder / name).with_suffix(".webp")
        if path.is_file() and (limit is None or len(found) < limit):
            image = as_rgb(decode_image(path)).resize((size, size), Image.Resampling.LANCZOS)
            found.append(Drawing(image, item["name"]))
    if not found:
        raise ValueError(f"no drawing in {folder} has a name in {names}: give the packages' own folders.")
    return found


def draw_shapes(size: int) -> list[Drawing]:
    """Draw every shape in every colour."""
    return [Drawing(_shape(shape, colour, size), f"{colour} {shape}") for shape in SHAPES for colour in COLOURS]


def _shape(shape: str, colour: str, size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), "white")
    pen, box = ImageDraw.Draw(image), (size // 4, size // 4, 3 * size // 4, 3 * size // 4)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon([(size // 2, size // 4), (size // 4, 3 * size // 4), (3 * size // 4, 3 * size // 4)], fill=colour)
    else:
        pen.line(box, fill=colour, width=max(1, size // 8))
    return image


def pixels_of(drawings: Sequence[Drawing]) -> torch.Tensor:
    """Return the drawings as pixels in [-1, 1], shape [N, 3, H, W]."""
    arrays = np.stack([np.asarray(drawing.image) for drawing in drawings])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


class Encoded(Sequence):
    """Encoded samples of a run. Every tenth sample has the empty prompt, which guidance needs.

    Args:
        latents: normalized latents, shape [N, C, h, w].
        condition: encoded captions by name, each of shape [N, ...].
        empty: encoded empty prompt, each of shape [1, ...].
    """

    def __init__(self, latents: torch.Tensor, condition: dict[str, torch.Tensor], empty: dict[str, torch.Tensor]):
        self.latents, self.condition, self.empty = latents, condition, empty

    def __len__(self) -> int:
        return 10 * len(self.latents)

    def __getitem__(self, index: int) -> dict:
        epoch, place = divmod(index, len(self.latents))
        is_empty = place % 10 == epoch  # over ten rounds, each drawing is once without its caption
        condition = {
            name: (self.empty[name][0] if is_empty else tensor[place]) for name, tensor in self.condition.items()
        }
        return {"latents": self.latents[place].float(), "condition": condition}

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))
