"""Files and folders are complete or absent, whenever a process dies."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusers_twinflow.writing import (
    DiskError,
    finish_folder,
    is_disk_error,
    merge_folder,
    recover,
    remove_folder,
    start_folder,
    write_file,
    write_folder,
    write_text,
)

CALLS = ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink")


def fill(text: str):
    """Write a folder of two files, one of them in a folder."""

    def write(folder: Path) -> None:
        (folder / "a.txt").write_text(text)
        (folder / "more").mkdir()
        (folder / "more" / "b.txt").write_text(text)

    return write


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def dies_at(call: int, work) -> bool:
    """Do `work` in a process that kills itself before the given call of the operating system; whether it did."""
    pid = os.fork()
    if pid == 0:
        count = [0]

        def killing(function):
            def counted(*args, **kwargs):
                count[0] += 1
                if count[0] == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return counted

        for name in CALLS:
            setattr(os, name, killing(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


WHOLE = {"a.txt": "new", "more/b.txt": "new"}
WAYS = {
    "file": (lambda root: write_text(root / "a.txt", "new"), {"a.txt": "new", "more/b.txt": "old", "own.txt": "own"}),
    "folder": (lambda root: write_folder(root, fill("new")), WHOLE),
    "merged": (lambda root: merge_folder(root, fill("new")), {**WHOLE, "own.txt": "own"}),
    "removed": (remove_folder, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_old_or_new_whichever_call_it_dies_in(tmp_path, way):
    """And once it is new it stays new: the outcomes change once, from old to new, as the death comes later."""
    work, new = WAYS[way]
    old = {"a.txt": "old", "more/b.txt": "old", "own.txt": "own"}
    outcomes, call = [], 0
    is_dead = True
    while is_dead:
        call += 1
        place = tmp_path / str(call)
        root = place / "root"
        root.mkdir(parents=True)
        fill("old")(root)
        (root / "own.txt").write_text("own")
        is_dead = dies_at(call, lambda: work(root))  # noqa: B023
        for folder in (place, root):
            recover(folder)
        found = contents(root) if root.exists() else {}
        assert found in (old, new), (call, found)
        assert {path.name for path in place.iterdir()} <= {"root"}, "nothing is left over"
        outcomes.append(found == new)
    assert outcomes == sorted(outcomes) and outcomes[-1] and (len(outcomes) > 3 or way == "removed")


def test_what_fails_leaves_what_was_there(tmp_path):
    fill("old")(tmp_path)

    def fail(path: Path) -> None:
        if path.is_dir():
            (path / "a.txt").write_text("half")
        else:
            path.write_text("half")
        raise KeyError

    for work in (
        lambda: write_file(tmp_path / "a.txt", fail),
        lambda: write_folder(tmp_path / "more", fail),
        lambda: merge_folder(tmp_path, fail),
    ):
        with pytest.raises(KeyError):
            work()
        assert contents(tmp_path) == {"a.txt": "old", "more/b.txt": "old"}


def test_a_file_keeps_its_suffix_while_it_is_written(tmp_path):
    """Libraries take the format from it."""
    seen = []
    write_file(tmp_path / "new" / "grid.png", lambda path: (seen.append(path.name), path.touch()))
    assert seen[0].endswith(".png") and seen[0].startswith(".")


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_of_safetensors_have_the_permissions_of_others(tmp_path, umask):
    def save(path: Path) -> None:
        save_file({"weight": torch.zeros(2)}, path)

    before = os.umask(umask)
    try:
        write_file(tmp_path / "one.safetensors", save)
        write_folder(tmp_path / "new", lambda folder: save(folder / "two.safetensors"))
        merge_folder(tmp_path / "merged", lambda folder: save(folder / "three.safetensors"))
        write_text(tmp_path / "text", "")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(
        ("one.safetensors", "two.safetensors", "three.safetensors", "text"), oct(0o666 & ~umask)
    )


def test_a_folder_that_was_being_replaced_comes_back(tmp_path):
    (tmp_path / ".replaced-root").mkdir()
    fill("old")(tmp_path / ".replaced-root")
    recover(tmp_path)
    assert contents(tmp_path / "root") == {"a.txt": "old", "more/b.txt": "old"}
    recover(tmp_path / "nowhere")


def test_filling_a_folder_in_parts(tmp_path):
    aside = start_folder(tmp_path / "root")
    (start_folder(tmp_path / "root") / "a.txt").write_text("new")
    assert aside.is_dir() and not (tmp_path / "root").exists()
    finish_folder(tmp_path / "root")
    assert contents(tmp_path / "root") == {"a.txt": "new"}


@pytest.fixture
def full_disk():
    """Files of this process can be 20,000 bytes long."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(30_000)),
        lambda path: torch.save(torch.zeros(30_000), path),
        lambda path: save_file({"a": torch.zeros(30_000)}, path),
    ],
    ids=["python", "torch", "safetensors"],
)
def test_a_full_disk_is_named_whoever_writes(tmp_path, full_disk, write):
    path = tmp_path / "file.bin"
    path.write_text("old")
    with pytest.raises(DiskError, match=r"file.bin' could not be written: .* MiB free on that disk"):
        write_file(path, write)
    assert path.read_text() == "old" and [found.name for found in tmp_path.iterdir()] == ["file.bin"]


def test_other_errors_of_writing_stay_what_they_are(tmp_path):
    with pytest.raises(ValueError, match="not about the disk"):
        write_file(tmp_path / "a", lambda path: (_ for _ in ()).throw(ValueError("not about the disk")))
    with pytest.raises(OSError) as raised:
        write_file(tmp_path / "a", lambda path: (_ for _ in ()).throw(OSError(errno.ENOENT, "gone")))
    assert not isinstance(raised.value, DiskError)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder in which nothing can be created")
def test_a_folder_that_cannot_be_created_is_one_error():
    with pytest.raises(DiskError, match="'/proc/x' cannot be created .No such file or directory.. Choose another"):
        write_text("/proc/x/file.txt", "a")
    assert is_disk_error(DiskError("anything"))
