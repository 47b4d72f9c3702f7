"""Give the samples of a run from data that can be indexed."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from ..families.sound import SoundFormat
from .cache import TensorCache
from .captions import CaptionSource
from .check import CheckedRows
from .clips import read
from .draws import SampleDraw
from .framing import Framing
from .sampler import Place
from .sound import sound_of


class Samples(TorchDataset):
    """Samples by their place in the run. Random choices depend only on the position and the seed.

    A sample is a dictionary with:

    - `"position"` and `"caption"`.
    - `"pixels"` in [-1, 1] of shape [3, height, width], or [3, frames, height, width] for a video; or, if they are
      cached, `"latents"` and `"latents_std"`.
    - `"sound"` and `"part_weights"`, if the model generates sound: the waveform, unless it is cached as a part of the
      latents, and the weights of video and sound in the loss.
    - `"reference"`: pixels of the reference image, if there is one, cropped like the image.

    Args:
        checked: the data. Without an image column, samples have neither pixels nor latents.
        framing: how images are cropped, or `None` if images are not used.
        seed: seed of the run.
        repeats: number of times that an epoch uses each sample.

    Attributes:
        latents: cache of all latents, if they are encoded beforehand.
        sound_format: the waveforms of the samples, if the model generates sound.
    """

    def __init__(
        self, checked: CheckedRows, captions: CaptionSource, framing: Framing | None, *, seed: int, repeats: int = 1
    ) -> None:
        if framing is None and checked.image_column is not None:
            raise ValueError("samples with images need `framing`, which says how the images are cropped: pass it.")
        self.checked, self.captions, self.framing = checked, captions, framing
        self.facts = checked.facts.select_columns(["captions", "content", "width", "height"])
        self.seed, self.repeats = seed, repeats
        self.latents: TensorCache | None = None
        self.sound_format: SoundFormat | None = None

    def __len__(self) -> int:
        return len(self.checked.rows) * self.repeats

    def __getitem__(self, place: Place) -> dict:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[Place]) -> list[dict]:
        """Return the samples at several places. Reading a table once is much faster than row by row."""
        rows = [index % len(self.checked.rows) for index, _ in places]
        columns = self.facts[rows]
        facts = (dict(zip(columns, values)) for values in zip(*columns.values()))
        positions = [position for _, position in places]
        draws = SampleDraw.at_positions(self.seed, positions)
        return [self._sample(*each) for each in zip(rows, positions, facts, draws)]

    def _sample(self, row: int, position: int, fact: dict, draw: SampleDraw) -> dict:
        sample = {"position": position, "caption": self.captions.choose(fact["captions"], draw)}
        if self.framing is None or self.checked.image_column is None:
            return sample
        bucket = self.framing.bucket_of(fact["width"], fact["height"])
        reference = self.checked.reference_image_column
        if reference is not None:
            sample["reference"] = self.framing.pixels(self.image(row, reference), bucket, draw)
        if self.latents is not None:
            key = latent_key(fact["content"], self.framing.buckets[bucket], self.framing.flips(draw))
            return sample | self.latents[key]
        return sample | {"pixels": self.framing.pixels(self.image(row), bucket, draw)} | self.sound(row)

    def image(self, row: int, column: str | None = None) -> Image.Image | list[Image.Image]:
        """Decode the image of a row, or the frames of its video."""
        value = self.checked.rows[row][column or self.checked.image_column]
        return read(value, None if column else self.checked.clip)

    def sound(self, row: int) -> dict[str, torch.Tensor]:
        """Return the sound of the video of a row and its weight, or nothing if the model generates no sound."""
        if self.sound_format is None:
            return {}
        value = self.checked.rows[row][self.checked.image_column]
        return sound_of(value, self.checked.clip, self.sound_format)

    def buckets(self) -> np.ndarray:
        """Return the bucket of each sample, shape [size]."""
        if self.framing is None or self.checked.image_column is None:
            return np.zeros(len(self), dtype=int)
        framing, sizes = self.framing, zip(self.checked.facts["width"], self.checked.facts["height"])
        return np.tile([framing.bucket_of(*size) for size in sizes], self.repeats)

    def all_captions(self) -> list[str]:
        """Return every prompt that a run can use, including the empty one, without duplicates."""
        captions = self.checked.facts["captions"]
        return list(dict.fromkeys(["", *(text for texts in captions for text in texts)]))


def latent_key(content: str, size: tuple[int, int], flipped: bool) -> str:
    """Return the cache key of an image's latents. `size` is (height, width)."""
    return f"{content}-{size[0]}x{size[1]}{'-flipped' if flipped else ''}"


def collate(samples: list[dict]) -> dict:
    """Combine samples into a batch. Tensors are stacked; other values become lists."""
    return {
        name: torch.stack([sample[name] for sample in samples])
        if isinstance(samples[0][name], torch.Tensor)
        else [sample[name] for sample in samples]
        for name in samples[0]
    }
