"""Check memory and the output folder before anything is loaded."""

import os
from pathlib import Path

import psutil

from ..configuration import TwinFlowConfigError
from ..data.memory import GIB, PIXEL_BYTES
from .arguments import TrainingArguments


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
