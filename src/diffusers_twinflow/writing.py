"""Write files and folders atomically, so that they are complete or absent if the process or the machine stops.

Data is first written next to its final path and flushed to the disk. One rename then commits it. If the process stops
after that rename, `recover` does the rest.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished-"
"""Prefix of a file or folder that is being written. `recover` deletes it."""
COMPLETE = ".complete-"
"""Prefix of a complete folder. `recover` gives it the name without the prefix."""
REPLACED = ".replaced-"
"""Prefix of an old folder while a new one takes its name."""
REMOVED = ".removed-"
"""Prefix of a folder that is being deleted."""
MERGED = ".complete"
"""Name of a complete folder. `recover` moves its entries into its parent folder."""
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
"""Parts of the messages of libraries that write files and do not raise an `OSError`."""
MIB = 2**20
OWNER_ONLY = 0o600


class DiskError(OSError):
    """Raised if a file could not be written. The previous content is still there."""


def make_folder(folder: str | Path) -> None:
    """Create a folder and those above it, if they do not exist.

    Raises:
        DiskError: if it cannot be created.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"'{folder}' cannot be created ({error.strerror}). Choose another folder.") from error


def write_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically.

    Args:
        path: final path of the file.
        write: writes the file to the path it gets, which has the same suffix and folder as `path`.

    Raises:
        DiskError: if the disk is full or does not let us write.
    """
    path = Path(path)
    aside = path.with_name(UNFINISHED + path.name)
    with disk_errors(path):
        make_folder(path.parent)
        try:
            write(aside)
            flush_file(aside)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        flush(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically in UTF-8; see `write_file`."""
    write_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def unfinished(folder: str | Path) -> Path:
    """Return the temporary path that is filled between `start_folder` and `finish_folder`."""
    folder = Path(folder)
    return folder.with_name(UNFINISHED + folder.name)


def start_folder(folder: str | Path) -> Path:
    """Create an empty temporary folder, which `finish_folder` renames to `folder`, and return its path."""
    aside = unfinished(folder)
    with disk_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    return aside


def finish_folder(folder: str | Path) -> None:
    """Replace `folder` by the temporary folder of `start_folder`. `folder` may exist or not."""
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
    """Write or replace a folder atomically.

    Args:
        folder: final path of the folder.
        write: fills the empty folder that it gets.

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
    """Write several entries of a folder at once. Other entries of the folder do not change.

    Args:
        folder: the folder, which is created if it does not exist.
        write: fills the empty folder that it gets. Its entries are then moved into `folder`.

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
    """Delete a folder. It is renamed first, so that no partly deleted folder has its name."""
    folder = Path(folder)
    removed = folder.with_name(REMOVED + folder.name)
    shutil.rmtree(removed, ignore_errors=True)
    os.rename(folder, removed)
    shutil.rmtree(removed, ignore_errors=True)


def recover(folder: str | Path) -> None:
    """Finish or undo what a process was writing in `folder` when it stopped.

    Complete folders get their final names, and everything else is deleted. No other process may write there meanwhile.

    Raises:
        DiskError: if the disk is full or does not let us write.
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
    """Flush a folder and everything in it to the disk; see `flush_file`."""
    for directory, _, files in os.walk(folder):
        for name in files:
            flush_file(Path(directory, name))
        flush(Path(directory))


def flush_file(path: Path) -> None:
    """Flush a new file to the disk, with the permissions that the umask allows.

    safetensors writes files that only their owner may read.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode == OWNER_ONLY:
        path.chmod(mode | _usual_mode(path.parent))
    flush(path)


def _usual_mode(folder: Path) -> int:
    probe = folder / f"{UNFINISHED}mode-{os.getpid()}"
    probe.touch()
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()


def flush(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to the disk. Windows cannot flush folders."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Convert write errors in the block to a `DiskError` that names the file and the free space.

    Args:
        path: the file or folder that is being written.

    Raises:
        DiskError: if PyTorch, safetensors or Python fail to write.
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
    if isinstance(error, DiskError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRNOS
    return any(text in str(error) for text in FOREIGN_DISK_ERRORS)


def free_space(path: str | Path) -> str:
    """Return the free space of the disk that `path` is on, as text."""
    existing = next(parent for parent in [Path(path).absolute(), *Path(path).absolute().parents] if parent.exists())
    return f"{shutil.disk_usage(existing).free / MIB:,.1f} MiB"
