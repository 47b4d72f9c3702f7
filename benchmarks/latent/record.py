"""The results of one or several calls that write to the same folder."""

import json
from pathlib import Path

from filelock import FileLock

DESIGN = "shared captions"
"""What the scores are about. The first design scored captions that one drawing has."""


class Record:
    """Results in a JSON file. What another call has written since is kept.

    Args:
        path: the file.
        stages: the stages of this call. Their earlier errors are forgotten.
    """

    def __init__(self, path: Path, stages: list[str]):
        self.path, self.stages = path, stages
        self.report: dict = {"design": DESIGN, "commands": [], "rows": []}
        self.report |= {name: {} for name in ("ways", "seconds", "errors", "skipped")}
        if path.is_file() and self._read().get("design") != DESIGN:
            raise ValueError(f"{path} is of an earlier design of this benchmark: use another --output_dir.")
        self.save()

    def row_of(self, way: str, steps: int | None) -> dict | None:
        return next((row for row in self.report["rows"] if _key(row) == (way, steps)), None)

    def own(self, kind: str) -> dict[str, str]:
        """Return the errors or the skipped stages of this call."""
        return {name: reason for name, reason in self.report[kind].items() if name in self.stages}

    def save(self) -> None:
        """Write the results, and take over those of other calls."""
        with FileLock(self.path.with_suffix(".lock")):
            stored = self._read() if self.path.is_file() else self.report
            keys = {_key(row) for row in self.report["rows"]}
            rows = [row for row in stored["rows"] if _key(row) not in keys] + self.report["rows"]
            parts = {name: stored[name] | self.report[name] for name in ("ways", "seconds")}
            for kind in ("errors", "skipped"):
                others = {name: reason for name, reason in stored[kind].items() if name not in self.stages}
                parts[kind] = others | self.own(kind)
            commands = list(dict.fromkeys([*stored["commands"], *self.report["commands"]]))
            self.report = stored | self.report | parts | {"rows": rows, "commands": commands}
            unfinished = self.path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(self.report, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(self.path)

    def _read(self) -> dict:
        return json.loads(self.path.read_text(encoding="utf-8"))


def _key(row: dict) -> tuple[str, int | None]:
    return row["way"], row["steps"]
