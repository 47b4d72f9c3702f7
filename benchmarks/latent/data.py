"""Captioned drawings: a file that `packing.py` writes, or plain shapes for a rehearsal."""

import io
import json
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
HELD_OUT_SHARE = 0.1
EMPTY_SHARE = 0.1


@dataclass(frozen=True)
class Drawing:
    """A drawing, its caption, the group of its subject, and whether training must not see it."""

    image: Image.Image
    caption: str
    group: str
    is_held_out: bool = False


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
            image = Image.open(io.BytesIO(archive.read(entry.pop("file")))).convert("RGB")
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.LANCZOS)
            drawings.append(Drawing(image, **entry))
    return drawings


def hold_out(captions: Sequence[str], seed: int, share: float = HELD_OUT_SHARE) -> set[str]:
    """Choose captions to hold out. All their words are also in other captions, so that a model knows the words."""
    generator, left = np.random.default_rng(seed), sorted(set(captions))
    counts: dict[str, int] = {}
    for caption in left:
        for word in set(caption.split()):
            counts[word] = counts.get(word, 0) + 1
    chosen: set[str] = set()
    for place in generator.permutation(len(left)):
        words = set(left[place].split())
        if len(chosen) < share * len(left) and all(counts[word] > 1 for word in words):
            chosen.add(left[place])
            for word in words:
                counts[word] -= 1
    return chosen


def draw_shapes(size: int) -> list[Drawing]:
    """Draw every shape in every colour. Some combinations are held out."""
    captions = {(shape, colour): f"{colour} {shape}" for shape in SHAPES for colour in COLOURS}
    held_out = hold_out(list(captions.values()), 0)
    return [Drawing(_shape(*key, size), caption, key[0], caption in held_out) for key, caption in captions.items()]


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
    """Endless random batches of encoded samples, collected on their device. A tenth has the empty prompt.

    Args:
        latents: normalized latents, shape [N, C, h, w].
        condition: encoded captions by name, each of shape [N, ...].
        empty: encoded empty prompt, each of shape [1, ...].
        batch_size: samples per batch.
        seed: seed of the order. Two iterations give the same batches.
    """

    def __init__(
        self,
        latents: torch.Tensor,
        condition: dict[str, torch.Tensor],
        empty: dict[str, torch.Tensor],
        batch_size: int,
        seed: int = 0,
    ):
        self.latents, self.condition, self.empty = latents, condition, empty
        self.batch_size, self.seed = batch_size, seed
        self.table = {name: torch.cat([tensor, empty[name]]) for name, tensor in condition.items()}
        """Conditions by sample; the last one is that of the empty prompt."""

    def with_batches_of(self, batch_size: int) -> "Encoded":
        return Encoded(self.latents, self.condition, self.empty, batch_size, self.seed)

    @property
    def empty_place(self) -> int:
        """Place of the empty prompt in `table`."""
        return len(self.latents)

    def places(self) -> Iterator[torch.Tensor]:
        """Yield the samples of each batch. Each sample comes once before any comes again."""
        generator, open_places = torch.Generator().manual_seed(self.seed), torch.empty(0, dtype=torch.long)
        while True:
            while len(open_places) < self.batch_size:
                open_places = torch.cat([open_places, torch.randperm(len(self.latents), generator=generator)])
            chosen, open_places = open_places[: self.batch_size], open_places[self.batch_size :]
            yield chosen

    def __iter__(self) -> Iterator[dict]:
        generator = torch.Generator().manual_seed(self.seed + 1)
        for chosen in self.places():
            is_empty = torch.rand(len(chosen), generator=generator) < EMPTY_SHARE
            captions = torch.where(is_empty, self.empty_place, chosen).to(self.latents.device)
            condition = {name: tensor[captions] for name, tensor in self.table.items()}
            yield {"latents": self.latents[chosen.to(self.latents.device)], "condition": condition}
