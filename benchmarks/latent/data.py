"""Captioned drawings: a file that `packing.py` writes, or plain shapes for a rehearsal."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "pink")
SHAPES = ("circle", "square", "triangle", "line")
INDEX = "drawings.json"
EMPTY_SHARE = 0.1


@dataclass(frozen=True)
class Drawing:
    """A drawing, its name, which few other drawings have, and the group of its subject, which many have."""

    image: Image.Image
    caption: str
    group: str

    @property
    def group_caption(self) -> str:
        """The caption that all drawings of the group share. It is never a name: "face-smiling" is "any face smiling"."""
        return " ".join(["any", *re.findall(r"[a-z0-9]+", self.group.lower())])


def pack(drawings: Sequence[Drawing], path: Path, quality: int = 95) -> None:
    """Write drawings to one zip file of WebP images and an index."""
    index = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, drawing in enumerate(drawings):
            encoded, name = io.BytesIO(), f"{number:05d}.webp"
            drawing.image.save(encoded, "WEBP", quality=quality, method=4)
            archive.writestr(name, encoded.getvalue())
            index.append({"file": name, **{k: v for k, v in asdict(drawing).items() if k != "image"}})
        archive.writestr(INDEX, json.dumps(index))


def unpack(path: Path, size: int) -> list[Drawing]:
    """Read the file that `pack` wrote.

    Args:
        size: side of the images in pixels.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run `python benchmarks/latent/packing.py` first and give its output.")
    drawings = []
    with zipfile.ZipFile(path) as archive:
        for entry in json.loads(archive.read(INDEX)):
            image = Image.open(io.BytesIO(archive.read(entry["file"]))).convert("RGB")
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.LANCZOS)
            drawings.append(Drawing(image, entry["caption"], entry["group"]))
    return drawings


def draw_shapes(size: int) -> list[Drawing]:
    """Draw every shape in every color."""
    return [Drawing(_shape(shape, colour, size), f"{colour} {shape}", shape) for shape in SHAPES for colour in COLOURS]


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
    """Return the drawings as uint8 pixels, shape [N, 3, H, W]."""
    arrays = np.stack([np.asarray(drawing.image) for drawing in drawings])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()


class Encoded:
    """Endless random batches of encoded samples, collected on their device.

    Each time, a sample has one of its captions at random. A tenth has the empty prompt.

    Args:
        latents: normalized latents, shape [N, C, h, w].
        condition: encoded captions by name, each of shape [M, ...].
        captions: the captions of each sample, as places in `condition`, shape [N, K].
        empty: encoded empty prompt, each of shape [1, ...].
        batch_size: samples per batch.
        seed: seed of the order and of the captions. Two iterations give the same batches.
    """

    def __init__(
        self,
        latents: torch.Tensor,
        condition: dict[str, torch.Tensor],
        captions: torch.Tensor,
        empty: dict[str, torch.Tensor],
        batch_size: int,
        seed: int = 0,
    ):
        self.latents, self.condition, self.captions, self.empty = latents, condition, captions, empty
        self.batch_size, self.seed = batch_size, seed
        self.table = {name: torch.cat([tensor, empty[name]]) for name, tensor in condition.items()}
        """The encoded captions; the last one is the empty prompt."""
        self.empty_place = len(next(iter(condition.values())))

    def with_batches_of(self, batch_size: int) -> "Encoded":
        return Encoded(self.latents, self.condition, self.captions, self.empty, batch_size, self.seed)

    def places(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the samples of each batch and their captions, as places in `latents` and in `table`.

        Each sample comes once before any comes again. No caption is the empty prompt.
        """
        order, choice = (torch.Generator().manual_seed(self.seed + shift) for shift in (0, 2))
        open_places = torch.empty(0, dtype=torch.long)
        while True:
            while len(open_places) < self.batch_size:
                open_places = torch.cat([open_places, torch.randperm(len(self.latents), generator=order)])
            chosen, open_places = open_places[: self.batch_size], open_places[self.batch_size :]
            which = torch.randint(self.captions.shape[1], chosen.shape, generator=choice)
            yield chosen, self.captions[chosen, which]

    def __iter__(self) -> Iterator[dict]:
        generator, device = torch.Generator().manual_seed(self.seed + 1), self.latents.device
        for chosen, captions in self.places():
            is_empty = torch.rand(len(chosen), generator=generator) < EMPTY_SHARE
            rows = torch.where(is_empty, self.empty_place, captions).to(device)
            condition = {name: tensor[rows] for name, tensor in self.table.items()}
            yield {"latents": self.latents[chosen.to(device)], "condition": condition}
