"""Checkpoints that are either complete or not there."""

import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from ..configuration import TwinFlowConfigError

PREFIX = "checkpoint-"
UNFINISHED = ".unfinished"


@contextmanager
def unfinished_directory(directory: str | Path, accelerator: Accelerator):
    """Yield a directory to fill by all processes, which gets its name only once it is complete."""
    directory = Path(directory)
    unfinished = directory.with_name(directory.name + UNFINISHED)
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    yield unfinished
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(unfinished, directory)


def publish_directory(directory: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a directory aside, then move its entries into `directory`, replacing older ones.

    What else `directory` holds stays. Nothing in it changes where `write` fails.
    """
    directory = Path(directory)
    aside = directory / UNFINISHED
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    for entry in sorted(aside.iterdir()):
        target = directory / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
    aside.rmdir()


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in Path(output_dir).glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of optimizer steps taken when it was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str) -> Path | None:
    """The checkpoint to resume from; `None` where "latest" finds none.

    Raises:
        TwinFlowConfigError: where a checkpoint asked for by name is not there.
    """
    checkpoints = list_checkpoints(output_dir)
    if resume_from_checkpoint == "latest":
        return checkpoints[-1] if checkpoints else None
    wanted = Path(output_dir) / Path(resume_from_checkpoint).name
    if wanted not in checkpoints:
        there = ", ".join(path.name for path in checkpoints) or "none"
        raise TwinFlowConfigError(
            f"resume_from_checkpoint='{resume_from_checkpoint}' is not in '{output_dir}' (there: {there}): "
            "name one of those, or 'latest'."
        )
    return wanted


def remove_unfinished(output_dir: str | Path) -> None:
    """Delete what an interrupted run left half-written."""
    for leftover in Path(output_dir).glob(f"*{UNFINISHED}"):
        shutil.rmtree(leftover)


def remove_old_checkpoints(output_dir: str | Path, limit: int | None) -> None:
    """Delete the oldest checkpoints until at most `limit` are left."""
    if limit is not None:
        for checkpoint in list_checkpoints(output_dir)[:-limit]:
            shutil.rmtree(checkpoint)
