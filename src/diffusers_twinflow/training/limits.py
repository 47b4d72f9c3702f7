"""What a run cannot have, found before anything is loaded: memory for its images, a folder to write to."""

import os
from pathlib import Path

import psutil

from ..configuration import TwinFlowConfigError
from ..data.memory import GIB, PIXEL_BYTES
from .arguments import TrainingArguments


def check_memory(args: TrainingArguments) -> None:
    """Refuse a sample that cannot fit; `data.memory` warns of batches that probably do not.

    Raises:
        TwinFlowConfigError: if the pixels of one sample are more than the memory of this machine.
    """
    memory = psutil.virtual_memory().total
    sample = args.resolution**2 * (args.num_frames or 1) * PIXEL_BYTES
    if sample > memory:
        size = f"resolution={args.resolution}" + (f" and num_frames={args.num_frames}" if args.num_frames else "")
        raise TwinFlowConfigError(
            f"One sample at {size} is {sample / GIB:.3g} GiB of pixels, and this machine has {memory / GIB:.3g} GiB of "
            "memory: use a smaller size."
        )


def check_output_dir(output_dir: str) -> None:
    """
    Raises:
        TwinFlowConfigError: if the run cannot write into its output folder.
    """
    path = Path(output_dir)
    existing = next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
    if not existing.is_dir():
        raise TwinFlowConfigError(f"output_dir='{output_dir}': '{existing}' is a file. Choose a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TwinFlowConfigError(
            f"output_dir='{output_dir}': '{existing}' is read-only for you. Choose a folder that you can write to."
        )
