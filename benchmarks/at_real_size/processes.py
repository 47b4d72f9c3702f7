"""Run parts of a benchmark in processes with a time limit, and collect the rows that they wrote."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from .measuring import Report


def run_apart(
    report: Report,
    commands: dict[str, list[str]],
    folder: Path,
    seconds: float,
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Run commands at the same time, and add the rows and failures of each when it ends.

    Args:
        commands: arguments of python by part. Each command gets `--output` and writes a report there after every row.
        folder: where the reports are written.
        seconds: time limit. A process that still runs is then ended, and its rows so far are added.
        environments: environment variables by part, in addition to those of this process.
    """
    environments = environments or {}
    deadline = time.monotonic() + seconds
    outputs = {part: folder / f"{part}.json" for part in commands}
    for path in outputs.values():
        path.unlink(missing_ok=True)
    processes = {
        part: subprocess.Popen(
            [sys.executable, *command, f"--output={outputs[part]}"],
            start_new_session=True,
            env={**os.environ, **environments.get(part, {})},
        )
        for part, command in commands.items()
    }
    for part, process in processes.items():
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            report.fail(part, f"ended after its limit of {seconds:.0f} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # including the workers of the compiler
            process.wait()
    for part, path in outputs.items():
        if path.exists():
            report.extend(part, json.loads(path.read_text(encoding="utf-8")))
        else:
            report.fail(part, f"exit code {processes[part].returncode} without rows")
