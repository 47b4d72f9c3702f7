"""Report the samples that cannot be used and the files that are left out."""

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ..configuration import TwinFlowConfigError
from ..writing import write_text

logger = logging.getLogger(__name__)

FILE_NAME = "data_report.json"
LOGGED_NAMES = 20
CORRUPT_IMAGES = "corrupt_images"
MISSING_CAPTIONS = "missing_captions"
IGNORED_FILES = "ignored_files"
FAULTS = (CORRUPT_IMAGES, MISSING_CAPTIONS)
"""Kinds of samples that cannot be used. `stop_on_bad_samples` stops at them."""
KINDS = (*FAULTS, IGNORED_FILES)


class Fault(NamedTuple):
    """The reason why a sample or a file is left out. `kind` is one of `KINDS`."""

    kind: str
    name: str
    reason: str


class DataReport:
    """Counts the bad samples of a run, each once, logs them and writes them to a JSON file.

    Args:
        path: file of the report, or `None` if another process writes it.
        stop: raise an error at bad samples instead of skipping them.
        resume: continue the existing report.
    """

    def __init__(self, path: str | Path | None, stop: bool = False, resume: bool = False) -> None:
        self.path, self.stop = Path(path) if path else None, stop
        self.totals: dict[str, int] = {}
        self.is_written = False
        self.faults: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        if resume and self.path and self.path.is_file():
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            self.faults = {kind: saved.get(kind, {}).get("samples", {}) for kind in KINDS}

    def add(self, faults: list[Fault]) -> None:
        """Add faults, log the new ones, and write the report.

        Raises:
            TwinFlowConfigError: if there are faults and `stop` is set.
        """
        new = [fault for fault in faults if fault.name not in self.faults[fault.kind]]
        for kind, name, reason in new:
            self.faults[kind][name] = reason
        if self.path and (new or not self.is_written):
            self._log(new)
            self._write(self.path)
        if self.stop and any(self.faults[kind] for kind in FAULTS):
            raise TwinFlowConfigError(
                f"the data has {self.found()}. Repair or remove them, or train without `stop_on_bad_samples` to skip them."
            )

    def found(self) -> str:
        """Return the number of faults of each kind, where they are listed, and the first bad sample."""
        faults = [f"{name}: {reason}" for kind in FAULTS for name, reason in self.faults[kind].items()]
        listed = [f"such as {faults[0]}"] if faults else []
        return f"{self.counts()} ({'; '.join([*listed, f'all are listed in {FILE_NAME}'])})"

    def counts(self) -> str:
        """Return the number of faults of each kind in words, and the number of ignored files if there are any."""
        shown = [kind for kind in KINDS if kind in FAULTS or self.faults[kind]]
        return ", ".join(f"{len(self.faults[kind])} {kind.replace('_', ' ')}" for kind in shown)

    def _write(self, path: Path) -> None:
        samples = {kind: {"count": len(found), "samples": found} for kind, found in self.faults.items()}
        write_text(path, json.dumps(self.totals | samples, indent=2, ensure_ascii=False) + "\n")
        self.is_written = True

    def _log(self, new: list[Fault]) -> None:
        faults = [fault for fault in new if fault.kind in FAULTS]
        for kind, name, reason in faults[:LOGGED_NAMES]:
            logger.warning(f"left out ({kind.replace('_', ' ')}): {name}: {reason}")
        if len(faults) > LOGGED_NAMES:
            logger.warning(f"left out: {len(faults) - LOGGED_NAMES} more, all listed in {self.path}")
        ignored = defaultdict(list)
        for fault in new:
            if fault.kind == IGNORED_FILES:
                ignored[fault.reason].append(fault.name)
        for reason, names in ignored.items():
            logger.warning(f"left out (ignored files): {len(names)} x {reason}, such as {names[0]}")
        if new:
            logger.warning(f"data: {self.counts()}")
