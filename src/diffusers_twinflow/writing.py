"""Files and folders that are either complete or not there, whenever the process or the machine stops.

What is written lies beside its place until it is complete and on the disk. One rename then decides that it counts;
what is left to do after that rename is done by `recover`, if the process does not get to it.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished-"
"""Before the name of what is being written: to be deleted."""
COMPLETE = ".complete-"
"""Before the name of a folder that is complete: to be put in the place of the folder of that name."""
REPLACED = ".replaced-"
"""Before the name of a folder while a new one takes its place."""
REMOVED = ".removed-"
"""Before the name of a folder that is being deleted."""
MERGED = ".complete"
"""A folder that is complete: its entries are to be moved into the folder that it lies in."""
MERGING = ".unfinished"

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
FOREIGN_DISK_ERRORS = (
    "No space left",
    "os error 28",
    "os error 27",
    "File too large",
    "quota",
    "file write failed",
    "iostream error",
    "inline_container.cc",
)
"""Parts of what libraries say that write files by themselves and raise no OSError."""
MIB = 2**20


class DiskError(OSError):
    """A file could not be written. What was there before is still there."""


def write_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file beside `path`, which has the same suffix, and give it the name `path` at once.

    Raises:
        DiskError: if the disk is full or does not let us write.
    """
    path = Path(path)
    aside = path.with_name(UNFINISHED + path.name)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(aside)
            flush(aside)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        flush(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, see `write_file`."""
    write_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def unfinished(folder: str | Path) -> Path:
    """Where `start_folder` has a folder filled that will take the place of `folder`."""
    folder = Path(folder)
    return folder.with_name(UNFINISHED + folder.name)


def start_folder(folder: str | Path) -> Path:
    """Make the empty folder that `finish_folder` puts in the place of `folder`, and return its path."""
    aside = unfinished(folder)
    with disk_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    return aside


def finish_folder(folder: str | Path) -> None:
    """Put what was written since `start_folder` in the place of `folder`, which may be there already."""
    folder = Path(folder)
    complete, aside = folder.with_name(COMPLETE + folder.name), unfinished(folder)
    with disk_errors(folder):
        flush_all(aside)
        os.rename(aside, complete)
        flush(folder.parent)
        _take_place(complete, folder)


def _take_place(complete: Path, folder: Path) -> None:
    replaced = folder.with_name(REPLACED + folder.name)
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(folder, replaced)
    os.rename(complete, folder)
    flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_folder(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder, and put it in the place of `folder` at once.

    Raises:
        DiskError: if the disk is full or does not let us write.
    """
    aside = start_folder(folder)
    with disk_errors(folder):
        try:
            write(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    finish_folder(folder)


def merge_folder(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder, and move all of its entries into `folder`. Other entries of `folder` stay.

    Raises:
        DiskError: if the disk is full or does not let us write. Nothing in `folder` has changed then.
    """
    folder = Path(folder)
    aside = folder / MERGING
    with disk_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            write(aside)
            flush_all(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        os.rename(aside, folder / MERGED)
        flush(folder)
        _move_entries(folder / MERGED, folder)


def _move_entries(complete: Path, folder: Path) -> None:
    for entry in sorted(complete.iterdir()):
        target = folder / entry.name
        if target.is_dir() and not target.is_symlink():
            remove_folder(target)
        os.replace(entry, target)
    flush(folder)
    complete.rmdir()


def remove_folder(folder: str | Path) -> None:
    """Delete a folder, which loses its name before anything in it is deleted."""
    folder = Path(folder)
    removed = folder.with_name(REMOVED + folder.name)
    shutil.rmtree(removed, ignore_errors=True)
    os.rename(folder, removed)
    shutil.rmtree(removed, ignore_errors=True)


def recover(folder: str | Path) -> None:
    """Finish in `folder` what a process was writing when it stopped, or undo it. No other process may write there.

    A folder that was complete takes its place; everything that was not complete is deleted.

    Raises:
        DiskError: if that fails.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    with disk_errors(folder):
        for complete in folder.glob(f"{COMPLETE}*"):
            _take_place(complete, folder / complete.name.removeprefix(COMPLETE))
        if (folder / MERGED).is_dir():
            _move_entries(folder / MERGED, folder)
        for replaced in folder.glob(f"{REPLACED}*"):
            place = folder / replaced.name.removeprefix(REPLACED)
            if place.exists():
                shutil.rmtree(replaced)
            else:
                os.rename(replaced, place)
        for leftover in [*folder.glob(f"{UNFINISHED}*"), *folder.glob(f"{REMOVED}*"), *folder.glob(MERGING)]:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def flush_all(folder: Path) -> None:
    """Bring a folder and everything in it to the disk."""
    for directory, _, files in os.walk(folder):
        for name in files:
            flush(Path(directory, name))
        flush(Path(directory))


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. Windows has no such call for folders."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Name the file and the room on its disk if something in the block cannot write.

    Raises:
        DiskError: instead of what PyTorch, safetensors or Python raise.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if not is_disk_error(error):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DiskError(f"'{path}' could not be written: {reason} ({free_space(path)} free on that disk).") from error


def is_disk_error(error: BaseException) -> bool:
    """Whether an exception says that the disk is full or does not let us write."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRNOS
    return any(text in str(error) for text in FOREIGN_DISK_ERRORS)


def free_space(path: str | Path) -> str:
    """The free room of the disk that `path` is on, in words."""
    existing = next(parent for parent in [Path(path).absolute(), *Path(path).absolute().parents] if parent.exists())
    return f"{shutil.disk_usage(existing).free / MIB:,.1f} MiB"
