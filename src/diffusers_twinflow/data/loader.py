"""Batches of a run from data that can be looked up by number."""

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
    """The batches of one process, each of one size, between two positions of the run.

    Args:
        first_position, last_position: multiples of `step_samples`; the last one is not included.
        step_samples: samples of an optimizer step, over all its micro-batches and processes.
        batch_size: samples of a micro-batch of one process.
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
        pin_memory=torch.accelerator.is_available(),
        generator=torch.Generator(),  # its own, so that starting it does not move the random numbers of training
    )
