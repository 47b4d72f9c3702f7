"""Check memory, batches and the output folder before anything is loaded."""

import os
from pathlib import Path

import psutil

from ..configuration import TwinFlowConfigError
from ..data.memory import GIB, PIXEL_BYTES
from .arguments import TrainingArguments

MOST_COPIES = 1000
"""Most times that a micro-batch may contain each sample. One sample per run is a valid dataset, also with large batches."""


def check_memory(args: TrainingArguments) -> None:
    """Check that the pixels of one sample fit into memory. `data.memory` warns about batches that probably do not fit.

    Raises:
        TwinFlowConfigError: if one sample needs more memory than this machine has.
    """
    memory = psutil.virtual_memory().total
    sample = args.resolution**2 * (args.num_frames or 1) * PIXEL_BYTES
    if sample > memory:
        size = f"resolution={args.resolution}" + (f" and num_frames={args.num_frames}" if args.num_frames else "")
        raise TwinFlowConfigError(
            f"One sample at {size} needs {sample / GIB:.3g} GiB for its pixels, but this machine has {memory / GIB:.3g} "
            "GiB of memory. Use a smaller size."
        )


def check_batch(args: TrainingArguments, samples: int, processes: int) -> str | None:
    """Compare the batch size with the number of samples per epoch.

    Args:
        samples: number of samples per epoch, at least 1.
        processes: number of processes.

    Returns:
        A warning if samples repeat in a pass of all processes, else `None`.

    Raises:
        TwinFlowConfigError: if a micro-batch would contain each sample more than `MOST_COPIES` times.
    """
    copies = args.train_batch_size / samples
    remedy = "To keep the number of samples per step, raise `gradient_accumulation_steps`."
    if copies > MOST_COPIES:
        raise TwinFlowConfigError(
            f"train_batch_size={args.train_batch_size} is {copies:,.0f} times the {samples} samples of the data. Use a "
            f"smaller batch. {remedy}"
        )
    together = args.train_batch_size * processes
    if together <= samples:
        return None
    shared = f"{processes} processes take" if processes > 1 else "a process takes"
    return (
        f"{shared} {together} samples at a time (`train_batch_size` {args.train_batch_size} per process), but the data has "
        f"only {samples}, so each sample is used about {together / samples:.1f} times with other noise. If you do not want "
        f"this, lower `train_batch_size`. {remedy}"
    )


def check_output_dir(output_dir: str) -> None:
    """Check that the run can write to its output folder.

    Raises:
        TwinFlowConfigError: if it cannot.
    """
    path = Path(output_dir).absolute()
    try:
        existing = next(parent for parent in [path, *path.parents] if parent.exists())
    except OSError as error:
        raise TwinFlowConfigError(
            f"output_dir={output_dir!r} is not a valid path ({error.strerror}). Choose another."
        ) from error
    if not existing.is_dir():
        raise TwinFlowConfigError(f"output_dir='{output_dir}': '{existing}' is a file. Choose a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TwinFlowConfigError(
            f"output_dir='{output_dir}': you cannot write to '{existing}'. Choose a folder that you can write to."
        )
