"""The samples of a run over data that can be looked up by number."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from .cache import TensorCache
from .captions import CaptionSource
from .check import CheckedRows
from .clips import read
from .draws import SampleDraw
from .framing import Framing
from .sampler import Place


class Samples(TorchDataset):
    """Samples by place in the run: what is drawn for one depends on its position and the seed alone.

    Gives `{"position", "caption"}`, and with images `"pixels"` in [-1, 1] of shape [3, height, width], with videos
    [3, frames, height, width], or `"latents"` (and `"latents_std"`) if they are cached. A reference image comes as `"reference"`, pixels cut as the image is.

    Args:
        checked: the data; without an image column there are neither pixels nor latents.
        framing: how images are cut; `None` where images are not used.
        seed: seed of the run.
        repeats: how often an epoch holds each sample.
    """

    def __init__(
        self, checked: CheckedRows, captions: CaptionSource, framing: Framing | None, *, seed: int, repeats: int = 1
    ) -> None:
        if framing is None and checked.image_column is not None:
            raise ValueError("samples with images need a framing, which says how the images are cut: pass `framing`.")
        self.checked, self.captions, self.framing = checked, captions, framing
        self.facts = checked.facts.select_columns(["captions", "content", "width", "height"])
        self.seed, self.repeats = seed, repeats
        self.latents: TensorCache | None = None

    def __len__(self) -> int:
        return len(self.checked.rows) * self.repeats

    def __getitem__(self, place: Place) -> dict:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[Place]) -> list[dict]:
        """The samples at several places; a table is much faster read once than row by row."""
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
        return sample | {"pixels": self.framing.pixels(self.image(row), bucket, draw)}

    def image(self, row: int, column: str | None = None) -> Image.Image | list[Image.Image]:
        """The image of a row, or the frames of its clip."""
        value = self.checked.rows[row][column or self.checked.image_column]
        return read(value, None if column else self.checked.clip)

    def buckets(self) -> np.ndarray:
        """The bucket of each sample, shape [size]."""
        if self.framing is None or self.checked.image_column is None:
            return np.zeros(len(self), dtype=int)
        framing, sizes = self.framing, zip(self.checked.facts["width"], self.checked.facts["height"])
        return np.tile([framing.bucket_of(*size) for size in sizes], self.repeats)

    def all_captions(self) -> list[str]:
        """Every prompt that a run can come to, once; the empty one too."""
        captions = self.checked.facts["captions"]
        return list(dict.fromkeys(["", *(text for texts in captions for text in texts)]))


def latent_key(content: str, size: tuple[int, int], flipped: bool) -> str:
    """The name in a cache of an image's latents; `size` is (height, width)."""
    return f"{content}-{size[0]}x{size[1]}{'-flipped' if flipped else ''}"


def collate(samples: list[dict]) -> dict:
    """A batch: tensors stacked, everything else as lists."""
    return {
        name: torch.stack([sample[name] for sample in samples])
        if isinstance(samples[0][name], torch.Tensor)
        else [sample[name] for sample in samples]
        for name in samples[0]
    }
