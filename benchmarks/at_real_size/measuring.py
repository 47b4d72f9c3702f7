"""Measure seconds and memory, and write a report that keeps its rows if a part fails or the time is over."""

import argparse
import datetime
import gc
import importlib.metadata
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffusers_twinflow.training.compilation import compiled_graphs

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "torchao", "bitsandbytes")
GIB = 2**30


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds until the device has finished."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def measure(work: Callable[[], Any], device: torch.device, *, warmup: int, runs: int) -> dict[str, Any]:
    """Return median, mean and all seconds of `runs` calls, and the peak memory in GiB (`None` on a CPU)."""
    for _ in range(warmup):
        work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [timed(work, device) for _ in range(runs)]
    return {**described_seconds(seconds), "warmup": warmup, "peak_gib": peak_gib(device)}


def described_seconds(seconds: list[float]) -> dict[str, Any]:
    return {
        "seconds": statistics.median(seconds),
        "mean_seconds": statistics.fmean(seconds),
        "all_seconds": [round(value, 6) for value in seconds],
        "runs": len(seconds),
    }


def measure_in_turns(works: dict, warmups: dict, device: torch.device, runs: int) -> dict[Any, dict[str, Any]]:
    """Measure several functions as `measure` does, in turns, so that a busy host slows all of them.

    Args:
        warmups: called before, once per function. "first_call_seconds" is their time, which includes compilation.
            "graphs_in_timed_calls" says whether anything was compiled later.
    """
    first_calls = {key: timed(warmups[key], device) for key in works}
    seconds, peaks, graphs = ({key: [] for key in works} for _ in range(3))
    for _ in range(runs):
        for key, work in works.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            before = compiled_graphs()
            seconds[key].append(timed(work, device))
            peaks[key].append(peak_gib(device))
            graphs[key].append(compiled_graphs() - before)
    return {
        key: {
            **described_seconds(seconds[key]),
            "first_call_seconds": first_calls[key],
            "graphs_in_timed_calls": sum(graphs[key]),
            "peak_gib": max(peaks[key]) if device.type == "cuda" else None,
        }
        for key in works
    }


def peak_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def graph_pools_gib() -> float:
    """Return the memory of CUDA graphs, which torch does not count as allocated because only replays use it."""
    segments = torch.cuda.memory_snapshot() if torch.cuda.is_available() else []
    in_pools = [segment for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0)]
    return sum(segment["total_size"] - segment["allocated_size"] for segment in in_pools) / GIB


def allocated_gib(device: torch.device) -> float | None:
    return torch.cuda.memory_allocated(device) / GIB if device.type == "cuda" else None


def private_gib() -> float:
    """Return the private memory of this process on the host."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024 / GIB


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Report:
    """Rows of results. The file is written after each row.

    Args:
        path: JSON file, or `None` for none.
        minutes: no row starts after this time.
    """

    def __init__(self, args: argparse.Namespace, path: str | None, minutes: float):
        self.path, self.deadline = path and Path(path), time.monotonic() + 60 * minutes
        device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
        self.result = {
            "command": " ".join(sys.argv),
            "date": datetime.datetime.now().isoformat(timespec="seconds"),
            "device": device,
            "versions": {name: installed_version(name) for name in PACKAGES},
            "arguments": vars(args),
            "tiny_rehearsal": args.tiny,
            "rows": [],
            "failures": [],
        }

    def add(self, row: dict[str, Any]) -> None:
        self.result["rows"].append(row)
        print(json.dumps(row), flush=True)
        self.save()

    def fail(self, name: str, error: str) -> None:
        """Record that a part failed."""
        print(f"--- {name}: {error}", flush=True)
        self.result["failures"].append({"name": name, "error": error})
        self.save()

    def extend(self, part: str, other: dict[str, Any]) -> None:
        """Add the rows and failures of another report."""
        self.result["rows"] += [{"part": part, **row} for row in other["rows"]]
        self.result["failures"] += other["failures"]
        if "compiling" in other:
            self.result.setdefault("compiling", {})[part] = other["compiling"]
        self.save()

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Record an error in the block with its whole text, so that the next part still runs."""
        print(f"--- {name}", flush=True)
        try:
            yield
        except Exception as error:
            text = traceback.format_exc()
            print(text, flush=True)
            self.result["failures"].append({"name": name, "error": repr(error), "traceback": text})
            self.save()

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Do the same as `noted`, and free memory before and after the block."""
        free_memory()
        try:
            with self.noted(name):
                yield
        finally:
            free_memory()

    def is_over(self, name: str) -> bool:
        """Return whether the time is over. The part is then recorded as not run."""
        if time.monotonic() < self.deadline:
            return False
        self.fail(name, "not run: the time given with --minutes was over")
        return True

    def save(self) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")

    def exit_code(self) -> int:
        """Return 1 if a part failed or was not run, else 0."""
        for failure in self.result["failures"]:
            print(f"FAILED {failure['name']}: {failure['error']}", flush=True)
        return 1 if self.result["failures"] else 0


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def add_common_arguments(parser: argparse.ArgumentParser, parts: list[str], result_name: str) -> None:
    """Add the arguments of all scripts. The defaults are real size on a GPU, and a tiny rehearsal without one."""
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--rank", type=int, default=64, help="Rank of every LoRA.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if has_gpu else "cpu")
    parser.add_argument(
        "--tiny", action=argparse.BooleanOptionalAction, default=not has_gpu, help="Use tiny models, for a rehearsal."
    )
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="What to measure, in this order.")
    parser.add_argument("--minutes", type=float, default=60.0, help="Start no part after this many minutes.")
    parser.add_argument(
        "--output",
        default=f"benchmarks/results/{result_name}.json" if has_gpu else None,
        help="JSON file for the results. A rehearsal writes none by default.",
    )


def announce(args: argparse.Namespace) -> None:
    if args.tiny:
        print("TINY REHEARSAL: tiny models; its times say nothing of real ones.", flush=True)
