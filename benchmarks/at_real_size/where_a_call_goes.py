"""Find where the time of a call goes: functions on the host, and how long the device is busy."""

import cProfile
import io
import pstats
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .measuring import Report, synchronize

FUNCTIONS = 25
RUNS = 5


def where_a_call_goes(call: Callable, device: torch.device, report: Report, name: str) -> dict[str, Any]:
    """Return what each profile of a call finds. If one fails, the report says so, and the others remain."""
    found = {}
    for look in (seconds_of_host_and_device, synchronizations, device_busy, host_functions):
        with report.noted(f"{name}: {look.__name__}"):
            call()
            synchronize(device)
            found |= look(call, device)
    return found


def seconds_of_host_and_device(call: Callable, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds until the call returned and until the device finished.

    They are nearly equal if the device waits for the host.
    """
    returned, done = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        returned.append(time.perf_counter() - start)
        synchronize(device)
        done.append(time.perf_counter() - start)
    return {"all_returned_seconds": returned, "all_done_seconds": done}


def synchronizations(call: Callable, device: torch.device) -> dict[str, Any]:
    """Return how often the host waits for the device in a call; `None` without a GPU."""
    if device.type != "cuda":
        return {"synchronizations": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    caught = [warning for warning in caught if "synchroniz" in str(warning.message)]
    places = [f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught]
    return {"synchronizations": len(places), "synchronization_lines": places}


def device_busy(call: Callable, device: torch.device) -> dict[str, Any]:
    """Return the seconds in which a kernel ran, the seconds from the first to the last, and the number of kernels.

    On a CPU, operators count instead of kernels.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        call()
        synchronize(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = profiled.profiler.kineto_results.events()  # `profiled.events()` takes 20 times as long
    ranges = sorted(
        (event.start_ns(), event.end_ns())
        for event in found
        if event.device_type() == kind and not event.is_user_annotation()
    )
    if not ranges:
        raise RuntimeError("the profiler saw nothing run on the device")
    return {
        "device_busy_seconds": covered(ranges) / 1e9,
        "device_span_seconds": (max(end for _, end in ranges) - ranges[0][0]) / 1e9,
        "kernels": len(ranges),
    }


def covered(ranges: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, which are sorted by start."""
    total, reached = 0.0, float("-inf")
    for start, end in ranges:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def host_functions(call: Callable, device: torch.device) -> dict[str, Any]:
    """Return the Python functions that take most of the host's time. Profiling makes the call slower."""
    profiler = cProfile.Profile()
    profiler.enable()
    call()
    profiler.disable()
    synchronize(device)
    stats = pstats.Stats(profiler).strip_dirs()
    return {
        "profiled_host_seconds": stats.total_tt,
        "host_by_cumulative": text_of(stats, "cumulative"),
        "host_by_own_time": text_of(stats, "tottime"),
    }


def text_of(stats: pstats.Stats, order: str) -> list[str]:
    stats.stream = io.StringIO()
    stats.sort_stats(order).print_stats(FUNCTIONS)
    return [line for line in stats.stream.getvalue().splitlines() if line.strip()]
