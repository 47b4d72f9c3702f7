"""The checkpoints of a run: what one says of itself, whether it is intact, and which to resume from."""

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError

PREFIX = "checkpoint-"
MANIFEST = "checkpoint.json"
CHUNK = 2**24


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself in `checkpoint.json`.

    Attributes:
        run: id of the run that wrote it.
        step: optimizer steps taken.
        arguments: the run's arguments.
        sizes: numbers that a resumed run must share, by name, see `training.resuming`.
        files: size and CRC-32 of every other file of the checkpoint, by path in it.
    """

    run: str
    step: int
    arguments: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write the file, with the sums of the files that are in the directory now."""
        paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        files = {path.relative_to(directory).as_posix(): (path.stat().st_size, checksum(path)) for path in paths}
        text = json.dumps(asdict(self) | {"files": files}, indent=2, sort_keys=True) + "\n"
        (directory / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> "Manifest | None":
        """The manifest of a checkpoint; `None` if it has none, or one that cannot be read."""
        try:
            return cls(**json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def read(cls, checkpoint: Path) -> "Manifest":
        """The manifest of a checkpoint.

        Raises:
            TwinFlowConfigError: if it has none, or one that cannot be read.
        """
        manifest = cls.load(checkpoint)
        if manifest is None:
            raise TwinFlowConfigError(
                f"'{checkpoint}' has no {MANIFEST} that can be read, so it cannot be resumed: take another checkpoint."
            )
        return manifest


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in words; `None` if it is intact."""
    manifest = Manifest.load(checkpoint)
    if manifest is None:
        return f"{MANIFEST} is missing or cannot be read"
    for name, (size, crc) in manifest.files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if checksum(path) != crc:
            return f"{name} has other contents than were written"
    return None


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints in a folder, the one with the fewest steps first."""
    found = [path for path in Path(output_dir).glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of optimizer steps taken when it was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def find_checkpoint(output_dir: str | Path, name: str) -> Path:
    """The checkpoint that `resume_from_checkpoint` names: one of `output_dir`, or the path of one.

    Raises:
        TwinFlowConfigError: if there is none.
    """
    path = Path(name)
    if len(path.parts) == 1:
        path = Path(output_dir) / name
    if path.name.startswith(PREFIX) and path.name.removeprefix(PREFIX).isdigit() and path.is_dir():
        return path
    there = ", ".join(found.name for found in list_checkpoints(path.parent)) or "none"
    raise TwinFlowConfigError(
        f"resume_from_checkpoint='{name}' is not in '{path.parent}' (there: {there}): name one of those, or 'latest'."
    )


def check_intact(checkpoint: Path, reason: str | None) -> None:
    """
    Raises:
        TwinFlowConfigError: if `damage_of` gave a reason.
    """
    if reason is not None:
        raise TwinFlowConfigError(
            f"resume_from_checkpoint: '{checkpoint}' is damaged ({reason}). Resume from another one, or from 'latest', "
            "which takes the newest that is intact."
        )
