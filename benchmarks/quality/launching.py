"""Start the training script as a user does."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import ROOT

SCRIPT = "examples/train_twinflow.py"
THREADS = 4


def training_command(options: dict[str, object], *, processes: int = 1, script: str = SCRIPT) -> list[str]:
    """Return the command that starts the training script with `accelerate launch`."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else []
    command += ["--num_cpu_threads_per_process", str(min(THREADS, torch.get_num_threads())), script]
    return command + [text for name, value in options.items() for text in as_command_line(name, value)]


def as_command_line(name: str, value: Any) -> list[str]:
    """Write a JSON option as arguments of the training command."""
    if value is None or value == []:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(_as_text, value)]
    return [f"--{name}={_as_text(value)}"]


def _as_text(value: Any) -> str:
    """Write a value as an argument. A float such as 2.0 is written as 2, so that integer options accept it."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def plain_command(command: list[str]) -> str:
    """Return the command as a reader would type it."""
    return " ".join(["accelerate", "launch", *command[3:]])


def run_logged(
    command: list[str], log: Path, *, gpus: list[str] | None = None, deadline: float | None = None
) -> float:
    """Run a command in the repository, with its output in `log`. Returns the seconds.

    Args:
        gpus: the devices that the process may use; `None` for all.
        deadline: time by `time.monotonic()` at which to end the command and its processes.

    Raises:
        RuntimeError: if it failed or was ended at the deadline. The message has the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        streams = {"stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
        try:
            code = process.wait(None if deadline is None else max(1.0, deadline - start))
        except BaseException as error:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"ended at the time limit after {time.monotonic() - start:.0f} s") from None
            raise
    if code:
        raise RuntimeError(f"exit code {code}: {log.read_text(encoding='utf-8', errors='replace')[-4000:]}")
    return time.monotonic() - start


def training_progress(log: Path) -> tuple[int, float]:
    """Return the steps of a run and their seconds, from the last progress bar of its log."""
    bars = re.findall(
        r"Steps:[^\r\n]*?(\d+)/\d+ \[(?:(\d+):)?(\d+):(\d+)<", log.read_text(encoding="utf-8", errors="replace")
    )
    if not bars:
        raise RuntimeError(f"{log} has no progress bar")
    steps, hours, minutes, seconds = (int(number or 0) for number in bars[-1])
    return steps, hours * 3600 + minutes * 60 + seconds
