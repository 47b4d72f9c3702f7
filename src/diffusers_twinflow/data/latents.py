"""Encode the latents of all images before training."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import NamedTuple

import torch
from accelerate import PartialState
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..configuration import TwinFlowConfigError
from ..families.encoding import LatentDistribution
from ..families.sound import SoundFormat
from .batches import PART_WEIGHTS
from .cache import Entry, TensorCache, batched, fill_cache
from .clips import Clip
from .draws import SampleDraw
from .encoders import weights_identity
from .framing import Framing
from .samples import Samples, latent_key

MIDDLE = SampleDraw(dropout=1.0, caption=0.0, left=0.5, top=0.5, flip=1.0)


LATENT_NAMES = ("latents", "latents_std")
"""Names of the mean and the standard deviation in a cache and in a batch. The second is missing if nothing is random."""


class Variant(NamedTuple):
    """One version of an image that can occur in training."""

    row: int
    bucket: int
    flipped: bool


def cache_latents(
    samples: Samples,
    encode: Callable[..., LatentDistribution],
    cache: TensorCache,
    *,
    batch_size: int,
    num_workers: int = 0,
    processes: PartialState | None = None,
) -> None:
    """Encode every image, and its mirror image if images are flipped. Afterwards `samples` returns latents.

    The cache contains the distribution of the latents, not a random sample of it. Latents are drawn each time a sample
    is used, as without a cache.

    Args:
        samples: samples of the run, which are changed in place.
        encode: takes pixels of shape [B, 3, height, width], or [B, 3, frames, height, width], and their sound if there
            is sound, and returns the distribution of their latents.
        cache: cache for the distributions.
        batch_size: number of images to encode at once.
        num_workers: number of processes that decode images. Defaults to 0, the main process.

    Raises:
        TwinFlowConfigError: if crops are random, so that there is no single version to cache.
    """
    framing = samples.framing
    if framing is None:
        raise ValueError("samples without images have no latents to cache.")
    refuse_free_crops(samples, framing)
    fill_cache(
        cache,
        batches_of_one_size(variants(samples, framing), batch_size),
        lambda batches: _encode_batches(samples, framing, encode, batches, num_workers),
        processes=processes or PartialState(),
        description="Encoding images",
    )
    samples.latents = cache


def latent_identity(
    pipeline: DiffusionPipeline,
    framing: Framing,
    name: str,
    clip: Clip | None = None,
    sound_format: SoundFormat | None = None,
) -> dict:
    """Return everything besides the image's file, size and flip that latents depend on. `name` is the base's name."""
    sound = (
        {} if sound_format is None else {"format": asdict(sound_format), "vae": weights_identity(pipeline.audio_vae)}
    )
    used = {} if clip is None else {key: value for key, value in asdict(clip).items() if key != "sound_fps" or value}
    return {
        "kind": "distributions of latents",
        "model": name,
        "pipeline": type(pipeline).__name__,
        "vae": weights_identity(pipeline.vae),
        "buckets": framing.buckets,
        "center_crop": framing.center_crop,
        **({"clip": used} if used else {}),
        **({"sound": sound} if sound else {}),
    }


def refuse_free_crops(samples: Samples, framing: Framing) -> None:
    """Check that the crop of every image is fixed.

    Raises:
        TwinFlowConfigError: if the crop of an image is random.
    """
    for fact in samples.checked.facts.select_columns(["width", "height", "name"]):
        if framing.crops_freely(fact["width"], fact["height"]):
            raise TwinFlowConfigError(
                f"cache_latents=true saves one crop per image, but crops are random and {fact['name']} has "
                f"{fact['width']}x{fact['height']} pixels. Set `center_crop`, or train without `cache_latents`."
            )


def variants(samples: Samples, framing: Framing) -> dict[str, Variant]:
    """Return every version of each image that can occur, by its cache key."""
    flips = (False, True) if framing.random_flip else (False,)
    found: dict[str, Variant] = {}
    for row, fact in enumerate(samples.checked.facts.select_columns(["content", "width", "height"])):
        bucket = framing.bucket_of(fact["width"], fact["height"])
        size = framing.buckets[bucket]
        found |= {latent_key(fact["content"], size, flip): Variant(row, bucket, flip) for flip in flips}
    return found


def batches_of_one_size(wanted: dict[str, Variant], batch_size: int) -> list[dict[str, Variant]]:
    """Group the versions into batches of one bucket each."""
    by_bucket: dict[int, dict[str, Variant]] = {}
    for key, variant in wanted.items():
        by_bucket.setdefault(variant.bucket, {})[key] = variant
    return [batch for members in by_bucket.values() for batch in batched(members, batch_size)]


class _Pixels(TorchDataset):
    def __init__(self, samples: Samples, framing: Framing) -> None:
        self.samples, self.framing = samples, framing

    def __getitem__(self, variant: Variant) -> dict[str, torch.Tensor]:
        draw = MIDDLE._replace(flip=0.0 if variant.flipped else 1.0)
        pixels = self.framing.pixels(self.samples.image(variant.row), variant.bucket, draw)
        return {"pixels": pixels} | self.samples.sound(variant.row)


@torch.no_grad()
def _encode_batches(
    samples: Samples,
    framing: Framing,
    encode: Callable[..., LatentDistribution],
    batches: list[dict[str, Variant]],
    workers: int,
) -> Iterator[dict[str, Entry]]:
    loader = DataLoader(
        _Pixels(samples, framing), batch_sampler=[list(batch.values()) for batch in batches], num_workers=workers
    )
    for keys, batch in zip(batches, loader):
        weights = {name: batch.pop(name) for name in (PART_WEIGHTS,) if name in batch}
        encoded = dict(zip(LATENT_NAMES, encode(**batch)))
        tensors = {name: tensor.cpu() for name, tensor in encoded.items() if tensor is not None} | weights
        yield {key: {name: tensor[row].clone() for name, tensor in tensors.items()} for row, key in enumerate(keys)}
