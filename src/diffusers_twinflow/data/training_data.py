"""Give the batches of a run as latents and conditions."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch.utils.data import DataLoader

from ..conditions import Condition
from ..configuration import TwinFlowConfigError
from ..families import Family
from ..families.encoding import LatentDistribution
from ..families.video import check_draws_videos
from ..methods.randomness import Purpose, draw_noise
from .cache import DiskCache, MemoryCache, TensorCache
from .encoders import encoder_modules, moved_to, size_multiple
from .framing import Framing, parse_buckets
from .latents import LATENT_NAMES, cache_latents, latent_identity
from .loader import build_loader
from .prompt_encoding import Conditions, cache_conditions, text_identity
from .samples import Samples
from .source import Source
from .stream import StreamedSamples, StreamLoader
from .trial import check_sizes

ENCODED_PIXELS = 2**21
MOST_ENCODED_AT_ONCE = 16


def encoding_batch_size(resolution: int, num_frames: int = 1) -> int:
    """Return how many images or videos to encode at once."""
    return max(1, min(MOST_ENCODED_AT_ONCE, ENCODED_PIXELS // (resolution**2 * num_frames)))


class TrainingData:
    """Loads batches and encodes them. With the cache options, images and prompts are encoded once, before training.

    If everything is encoded before training, the encoders are then moved to the CPU, and `with_encoders` brings them
    back when needed. The trained network is moved to the device.

    Args:
        source: the data.
        pipeline: the base, on any device.
        base_name: name of the base, for caches on disk.
        seed: seed of the run.
        batch_size: number of samples per micro-batch and process.
        tries_sizes: call the model once on a blank sample, so that a size that it does not support is an error before
            anything is encoded.
        processes: the processes of the run.
    """

    def __init__(
        self,
        source: Source,
        family: Family,
        pipeline: DiffusionPipeline,
        *,
        base_name: str,
        seed: int,
        batch_size: int,
        tries_sizes: bool = False,
        processes: PartialState | None = None,
    ) -> None:
        self.source, self.family, self.pipeline, self.base_name = source, family, pipeline, base_name
        self.seed, self.batch_size, self.processes = seed, batch_size, processes or PartialState()
        self.device = self.processes.device
        if source.config.num_frames:
            check_draws_videos(family, source.config.num_frames)
            family.check_num_frames(pipeline, source.config.num_frames)
        self.framing = self._frame()
        self.samples = self._build_samples()
        self.conditions = Conditions(self.encode_prompts, self.device)
        self.encoders = encoder_modules(pipeline, family.denoiser_names)
        with moved_to(self.encoders.values(), self.device) if self.is_offloaded else nullcontext():
            if not self.is_offloaded:
                pipeline.to(self.device)
            family.prepare_prompts(pipeline, self.samples.all_captions() if isinstance(self.samples, Samples) else [])
            sizes = self._used_sizes()
            family.prepare_sizes(pipeline, sizes)
            if source.config.used_image_column is not None:
                family.prepare_images(pipeline)
                self.samples.sound_format = family.sound_format
            if tries_sizes:
                self._check_sizes(sizes)
            self._encode_beforehand()
        family.network(pipeline).to(self.device)

    @property
    def is_offloaded(self) -> bool:
        """Return whether the encoders are off the device during training."""
        return self.source.config.encodes_all_beforehand

    def with_encoders(self) -> AbstractContextManager:
        """Move the encoders to the device inside the `with` block, for generating images during training."""
        return moved_to(self.encoders.values(), self.device) if self.is_offloaded else nullcontext()

    def epoch_size(self) -> int:
        """Return the number of samples per epoch.

        Raises:
            TwinFlowConfigError: if the data is a stream, whose length is unknown.
        """
        if isinstance(self.samples, StreamedSamples):
            raise TwinFlowConfigError(
                "`num_train_epochs` needs data of known size. With `streaming`, set `max_train_steps` instead."
            )
        return len(self.samples)

    def loader(self, *, first_position: int, last_position: int, step_samples: int) -> DataLoader | StreamLoader:
        """Return the micro-batches of this process between two positions of the run, multiples of `step_samples`."""
        where = {
            "first_position": first_position,
            "last_position": last_position,
            "batch_size": self.batch_size,
            "process_index": self.processes.process_index,
            "num_processes": self.processes.num_processes,
            "num_workers": self.source.config.dataloader_num_workers,
        }
        if isinstance(self.samples, StreamedSamples):
            self.stream = StreamLoader(self.samples, self.source.report, **where)
            return self.stream
        return build_loader(self.samples, seed=self.seed, step_samples=step_samples, **where)

    def register(self, accelerator: Accelerator) -> None:
        """Register the state of a stream for checkpoints. Other data needs only its position."""
        if isinstance(self.samples, StreamedSamples):
            accelerator.register_save_state_pre_hook(lambda models, weights, directory: self.stream.save(directory))
            accelerator.register_load_state_pre_hook(lambda models, directory: self.stream.load(directory))

    def read(self, batch: dict) -> tuple[torch.Tensor, Condition]:
        """Return the latents and the condition of a batch of the loader, on the device."""
        if "latents" in batch:
            cached = LatentDistribution(*(self._sent(batch[name]) for name in LATENT_NAMES if name in batch))
            latents = self._draw_latents(cached, batch["position"])
        elif "pixels" in batch:
            encoded = self.encode_images(batch["pixels"], batch.get("sound"))
            latents = self._draw_latents(encoded, batch["position"])
        else:
            latents = self.blank.expand(len(batch["caption"]), *self.blank.shape[1:])
        if "reference" in batch:
            return latents.float(), self.encode_prompts(batch["caption"], batch["reference"])
        return latents.float(), self.conditions(batch["caption"])

    def read_unconditional(self, batch: dict) -> Condition | None:
        """Return the condition of the empty prompt for each sample of a batch, or `None` if it is the same for all."""
        if "reference" not in batch:
            return None
        return self.encode_prompts([""] * len(batch["caption"]), batch["reference"])

    def unconditional(self) -> Condition | None:
        """Return the condition of the empty prompt with batch size 1, or `None` if it differs between samples."""
        return None if self.family.takes_reference_image else self.conditions([""])

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], reference_images: torch.Tensor | None = None) -> Condition:
        images = {} if reference_images is None else {"reference_images": reference_images}
        length = self.source.config.max_sequence_length
        return self.family.encode_prompts(self.pipeline, prompts, length, **images)

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor, sound: torch.Tensor | None = None) -> LatentDistribution:
        further = {} if sound is None else {"sound": self._sent(sound)}
        return self.family.encode_distribution(self.pipeline, self._sent(pixels), **further)

    @torch.no_grad()
    def _latents_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """The latents that a run trains on for these pixels, without randomness."""
        if self.source.config.used_image_column is None:
            return self.family.blank_latents(self.pipeline, self._sent(pixels))
        return self.encode_images(pixels).mean

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _draw_latents(self, distribution: LatentDistribution, positions: list[int]) -> torch.Tensor:
        """Draw the latents of samples at positions of the run. They do not depend on caching, batches or processes."""
        if distribution.std is None:
            return distribution.mean.float()
        shape, device = distribution.mean.shape[1:], distribution.mean.device
        noise = draw_noise(positions, shape, seed=self.seed, purpose=Purpose.AUTOENCODER, device=device)
        return distribution.sample(noise)

    def _frame(self) -> Framing:
        config = self.source.config
        divisor = size_multiple(self.pipeline, self.family.denoiser(self.pipeline))
        buckets = parse_buckets(config.aspect_ratio_buckets, config.resolution, divisor)
        return Framing(buckets, center_crop=config.center_crop, random_flip=config.random_flip)

    def _build_samples(self) -> Samples | StreamedSamples:
        config, rows = self.source.config, self.source.rows
        if not config.streaming:
            return Samples(rows, config.captions, self.framing, seed=self.seed, repeats=config.repeats)
        return StreamedSamples(
            rows,
            config.captions,
            config.used_image_column,
            self.framing,
            seed=self.seed,
            clip=config.clip,
            process_index=self.processes.process_index,
            num_processes=self.processes.num_processes,
        )

    def _used_sizes(self) -> list[tuple[int, int]]:
        """Every (height, width) that samples of the run can have."""
        config, buckets = self.source.config, self.framing.buckets
        if config.used_image_column is None:
            return [(config.resolution, config.resolution)]
        if isinstance(self.samples, StreamedSamples):
            return list(buckets)
        return [buckets[bucket] for bucket in np.unique(self.samples.buckets())]

    def _check_sizes(self, sizes: list[tuple[int, int]]) -> None:
        encoder: Any = next(iter(self.encoders.values()))
        check_sizes(
            self.family,
            self.pipeline,
            self.family.denoiser(self.pipeline),
            self._latents_of,
            self.encode_prompts,
            sizes,
            num_frames=self.source.config.num_frames,
            device=self.device,
            dtype=encoder.dtype,
        )

    def _encode_beforehand(self) -> None:
        config = self.source.config
        batch_size = encoding_batch_size(config.resolution, config.num_frames or 1)
        shared = {"batch_size": batch_size, "processes": self.processes}
        if config.used_image_column is None:
            frames = [config.num_frames] if config.num_frames else []
            pixels = torch.zeros(1, 3, *frames, config.resolution, config.resolution)
            self.blank = self._latents_of(pixels)
        elif config.cache_latents and isinstance(self.samples, Samples):
            depends_on = (self.pipeline, self.framing, self.base_name, config.clip, self.family.sound_format)
            cache = self._cache(partial(latent_identity, *depends_on))
            cache_latents(self.samples, self.encode_images, cache, num_workers=config.dataloader_num_workers, **shared)
        if config.cache_text_embeddings:
            denoisers = self.family.denoiser_names
            length = config.max_sequence_length or self.family.max_sequence_length
            self.conditions.cache = self._cache(
                lambda: (
                    text_identity(self.pipeline, denoisers, self.base_name, length) | self.family.condition_identity()
                )
            )
            if isinstance(self.samples, Samples):
                cache_conditions(self.samples.all_captions(), self.encode_prompts, self.conditions.cache, **shared)

    def _cache(self, identity: Callable[[], dict[str, Any]]) -> TensorCache:
        directory = self.source.config.cache_directory
        return DiskCache(Path(directory), identity()) if directory else MemoryCache()
