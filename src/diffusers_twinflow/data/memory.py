"""How much memory a batch takes at least, compared with what there is, before anything is loaded."""

import logging

import psutil
import torch

from .config import DataConfig

logger = logging.getLogger(__name__)

GIB = 2**30
PIXEL_BYTES = 3 * 4
"""Three channels in float32."""
LATENT_SHARE = 1 / 12
"""Latents of 16 channels with an eighth of the sides, as a share of the pixels."""


def sample_bytes(config: DataConfig) -> float:
    """Bytes of what training reads of one sample, pixels or latents; buckets are about as large as the square."""
    pixels = PIXEL_BYTES * config.resolution**2 * (config.num_frames or 1)
    return pixels * LATENT_SHARE if config.cache_latents or config.twinflow_image_free else pixels


def warn_about_memory(config: DataConfig, batch_size: int) -> None:
    """Warn if the batches of a run, which need more than their samples, cannot fit into memory."""
    sample = sample_bytes(config)
    batch = sample * batch_size
    for place, free in available_memory().items():
        if batch > free:
            logger.warning(
                f"a batch of `train_batch_size` {batch_size} at `resolution` {config.resolution} takes at least "
                f"{batch / GIB:,.1f} GiB ({sample / GIB:,.3f} GiB per sample), and {place} has {free / GIB:,.1f} GiB: "
                "training will probably be killed. Lower one of them; `gradient_accumulation_steps` keeps the number of "
                "samples per step."
            )


def available_memory() -> dict[str, int]:
    """Bytes of memory by where it is: what is free on the host, and all of the device's."""
    memory = {"this machine": psutil.virtual_memory().available}
    if torch.cuda.is_available():
        memory["the GPU"] = torch.cuda.mem_get_info()[1]
    return memory
