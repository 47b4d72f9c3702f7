"""The samples that cannot be trained on and the files that are left out, by name."""

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
"""Kinds of samples that cannot be trained on, at which a run may stop."""
KINDS = (*FAULTS, IGNORED_FILES)


class Fault(NamedTuple):
    """Why a sample or a file is left out; `kind` is one of `KINDS`."""

    kind: str
    name: str
    reason: str


class DataReport:
    """Faulty samples of a run, each counted once however often it comes by, logged and written as JSON.

    Args:
        path: where the report is written; `None` in a process that leaves it to another.
        stop: refuse to train with faulty samples instead of leaving them out.
        resume: go on with the report that is there.
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
        """Note faults, log those that are new, and write the report.

        Raises:
            TwinFlowConfigError: where there are any and the run is to stop at them.
        """
        new = [fault for fault in faults if fault.name not in self.faults[fault.kind]]
        for kind, name, reason in new:
            self.faults[kind][name] = reason
        if self.path and (new or not self.is_written):
            self._log(new)
            self._write(self.path)
        found = [f"{name}: {reason}" for kind in FAULTS for name, reason in self.faults[kind].items()]
        if self.stop and found:
            raise TwinFlowConfigError(
                f"the data has {self.counts()}, named in {FILE_NAME} ({found[0]}, ...): repair or remove them, or "
                "train without `stop_on_bad_samples`, which leaves them out."
            )

    def counts(self) -> str:
        """The number of faults of each kind, in words, and of ignored files if there are any."""
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
            logger.warning(f"left out: {len(faults) - LOGGED_NAMES} more, all named in {self.path}")
        ignored = defaultdict(list)
        for fault in new:
            if fault.kind == IGNORED_FILES:
                ignored[fault.reason].append(fault.name)
        for reason, names in ignored.items():
            logger.warning(f"left out (ignored files): {len(names)} x {reason}, such as {names[0]}")
        if new:
            logger.warning(f"data: {self.counts()}")
