"""Find the checkpoints of a run, read their manifests and check that they are intact."""

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError
from ..hub.files import CHECKPOINT_NAME

PREFIX = "checkpoint-"
CHUNK = 2**24


@dataclass(frozen=True)
class Manifest:
    """The contents of a checkpoint's `checkpoint.json`.

    Attributes:
        run: id of the run that wrote the checkpoint.
        step: number of optimizer steps taken.
        arguments: the run's arguments.
        sizes: numbers, by name, that must be the same in a resumed run, see `training.resuming`.
        files: size in bytes and CRC-32 of every other file of the checkpoint, by its path in the checkpoint.
    """

    run: str
    step: int
    arguments: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write the file with the checksums of the files that are in the directory now."""
        paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        files = {path.relative_to(directory).as_posix(): (path.stat().st_size, checksum(path)) for path in paths}
        text = json.dumps(asdict(self) | {"files": files}, indent=2, sort_keys=True) + "\n"
        (directory / CHECKPOINT_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> "Manifest | None":
        """Read the manifest of a checkpoint. Returns `None` if it is missing or cannot be read."""
        try:
            return cls(**json.loads((checkpoint / CHECKPOINT_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def read(cls, checkpoint: Path) -> "Manifest":
        """Read the manifest of a checkpoint.

        Raises:
            TwinFlowConfigError: if it is missing or cannot be read.
        """
        manifest = cls.load(checkpoint)
        if manifest is None:
            raise TwinFlowConfigError(
                f"'{checkpoint}' cannot be resumed, because its {CHECKPOINT_NAME} is missing or cannot be read. Use another "
                "checkpoint."
            )
        return manifest


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def damage_of(checkpoint: Path) -> str | None:
    """Return in words what is wrong with the files of a checkpoint, or `None` if it is intact."""
    manifest = Manifest.load(checkpoint)
    if manifest is None:
        return f"{CHECKPOINT_NAME} is missing or cannot be read"
    for name, (size, crc) in manifest.files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if checksum(path) != crc:
            return f"the contents of {name} have changed"
    return None


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """List the checkpoints in a folder, sorted by step."""
    found = [path for path in Path(output_dir).glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the number of optimizer steps of a checkpoint."""
    return int(checkpoint.name.removeprefix(PREFIX))


def find_checkpoint(output_dir: str | Path, name: str) -> Path:
    """Find the checkpoint that `resume_from_checkpoint` names, either in `output_dir` or by its path.

    Raises:
        TwinFlowConfigError: if it does not exist.
    """
    path = Path(name)
    if len(path.parts) == 1:
        path = Path(output_dir) / name
    if path.name.startswith(PREFIX) and path.name.removeprefix(PREFIX).isdigit() and path.is_dir():
        return path
    there = ", ".join(found.name for found in list_checkpoints(path.parent)) or "none"
    raise TwinFlowConfigError(
        f"resume_from_checkpoint='{name}' is not in '{path.parent}' (found: {there}). Give one of these, or 'latest'."
    )


def check_intact(checkpoint: Path, reason: str | None) -> None:
    """Check the result of `damage_of`.

    Raises:
        TwinFlowConfigError: if `reason` is not `None`.
    """
    if reason is not None:
        raise TwinFlowConfigError(
            f"resume_from_checkpoint='{checkpoint}' is damaged ({reason}). Resume from another checkpoint, or use "
            "'latest' for the newest checkpoint that is intact."
        )
