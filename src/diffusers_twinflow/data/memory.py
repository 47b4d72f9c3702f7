"""Compare the memory that a batch needs with the available memory, before anything is loaded."""

import logging

import psutil
import torch

from .config import DataConfig

logger = logging.getLogger(__name__)

GIB = 2**30
PIXEL_BYTES = 3 * 4
"""Bytes per pixel: three channels in float32."""
LATENT_SHARE = 1 / 12
"""Size of the latents (16 channels, an eighth of each side) relative to the pixels."""


def sample_bytes(config: DataConfig) -> float:
    """Return the bytes of one sample's pixels or latents. Buckets are about as large as the square."""
    pixels = PIXEL_BYTES * config.resolution**2 * (config.num_frames or 1)
    return pixels * LATENT_SHARE if config.cache_latents or config.twinflow_image_free else pixels


def warn_about_memory(config: DataConfig, batch_size: int) -> None:
    """Warn if the samples of a batch alone do not fit into memory."""
    sample = sample_bytes(config)
    batch = sample * batch_size
    for place, free in available_memory().items():
        if batch > free:
            logger.warning(
                f"a batch of `train_batch_size` {batch_size} at `resolution` {config.resolution} takes at least "
                f"{batch / GIB:,.1f} GiB ({sample / GIB:,.3f} GiB per sample), but {place} has only "
                f"{free / GIB:,.1f} GiB. Training will probably run out of memory. Lower one of them. To keep the number "
                "of samples per step, raise `gradient_accumulation_steps`."
            )


def available_memory() -> dict[str, int]:
    """Return the free memory of the host and the total memory of the device, in bytes."""
    memory = {"this machine": psutil.virtual_memory().available}
    if torch.cuda.is_available():
        memory["the GPU"] = torch.cuda.mem_get_info()[1]
    return memory
