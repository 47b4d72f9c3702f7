"""Build the batches of a run from data that can be indexed."""

import torch
from torch.utils.data import DataLoader

from .sampler import RunSampler
from .samples import Samples, collate


def build_loader(
    samples: Samples,
    *,
    seed: int,
    first_position: int,
    last_position: int,
    step_samples: int,
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
    num_workers: int = 0,
) -> DataLoader:
    """Build a loader for the batches of one process between two positions of the run. All images of a batch have one size.

    Args:
        first_position, last_position: multiples of `step_samples`. The last position is not included.
        step_samples: number of samples per optimizer step, over all micro-batches and processes.
        batch_size: number of samples per micro-batch and process.
    """
    sampler = RunSampler(
        samples.buckets(),
        seed,
        first_position,
        last_position,
        group_size=step_samples,
        batch_size=batch_size,
        process_index=process_index,
        num_processes=num_processes,
    )
    return DataLoader(
        samples,
        sampler=sampler,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=can_pin_memory(),
        generator=torch.Generator(),  # a separate one, so that the loader does not change training's random numbers
    )


def can_pin_memory() -> bool:
    """Whether batches can be put into memory that the accelerator reads without a wait. On a Mac (MPS) they cannot."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type != "mps"
