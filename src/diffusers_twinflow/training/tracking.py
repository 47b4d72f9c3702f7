"""Send numbers, images and points to trackers through accelerate."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from PIL import Image

from ..configuration import TwinFlowConfigError

logger = get_logger(__name__)

NONE, ALL = "none", "all"
ALIASES = {"comet": "comet_ml"}
LOCAL = ("tensorboard",)
GIB = 2**30


def tracker_names(report_to: Sequence[str]) -> list[str]:
    """Return the trackers in `report_to`, without "none".

    Raises:
        TwinFlowConfigError: if a tracker is unknown or its package is not installed.
    """
    names = [ALIASES.get(name, name) for value in report_to for name in value.split(",")]
    available = sorted(tracker.value for tracker in get_available_trackers())
    for name in set(names) - {NONE, ALL}:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise TwinFlowConfigError(f"report_to={name} is not a tracker of accelerate. Choose one of {known}.")
        if name not in available:
            raise TwinFlowConfigError(f"report_to={name} needs its package: pip install {name}.")
    if ALL in names:
        return available
    return list(dict.fromkeys(name for name in names if name != NONE))


def check_trackers(report_to: Sequence[str], hub_token: str | None) -> None:
    """Check that the trackers are installed, and that no Hub token would be sent to a remote tracker.

    Raises:
        TwinFlowConfigError: if a check fails.
    """
    remote = [name for name in tracker_names(report_to) if name not in LOCAL]
    if hub_token and remote:
        raise TwinFlowConfigError(
            f"`hub_token` with report_to={remote[0]} would log the token. Use `hf auth login` instead."
        )


def start_trackers(accelerator: Accelerator, project_name: str, arguments: dict[str, Any]) -> None:
    """Start a run of `project_name` in every tracker. Offline files of wandb and comet go to the logging folder."""
    directory = Path(accelerator.project_configuration.logging_dir)
    options: dict[str, dict[str, Any]] = {}
    if accelerator.is_main_process and accelerator.log_with:
        directory.mkdir(parents=True, exist_ok=True)
        options["wandb"] = {"dir": str(directory)}
        if "comet_ml" in map(str, accelerator.log_with):
            import comet_ml

            options["comet_ml"] = {"experiment_config": comet_ml.ExperimentConfig(offline_directory=str(directory))}
    accelerator.init_trackers(project_name, config=arguments, init_kwargs=options)


def log_picture(accelerator: Accelerator, name: str, picture: Image.Image, step: int) -> None:
    """Send an image from the main process to every tracker that supports images."""
    for tracker in accelerator.trackers if accelerator.is_main_process else ():
        if tracker.name == "tensorboard":
            tracker.writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        elif tracker.name == "comet_ml":
            tracker.writer.log_image(picture, name=name, step=step)
        elif tracker.name == "trackio":
            import trackio

            tracker.log({name: trackio.Image(picture)}, step=step)
        elif hasattr(tracker, "log_images"):
            tracker.log_images({name: [picture]}, step=step)
        else:
            logger.warning(f"The tracker {tracker.name} does not support images, so '{name}' is not logged there.")


def log_points(
    accelerator: Accelerator, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str, step: int
) -> None:
    """Send points to wandb as a table and a scatter plot of the first two columns."""
    for tracker in accelerator.trackers if accelerator.is_main_process else ():
        if tracker.name == "wandb":
            import wandb

            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            scatter = wandb.plot.scatter(table, columns[0], columns[1], title=title)
            tracker.log({f"{name}/table": table, f"{name}/scatter": scatter}, step=step)


class Throughput:
    """Measures samples per second and the peak memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        """Restart the measurement, for example after work that is not training."""
        self.samples, self.since = 0, time.perf_counter()

    def report(self) -> dict[str, float]:
        """Return samples per second since the last start and memory in GiB, and restart the measurement."""
        speed = self.samples / (time.perf_counter() - self.since)
        self.start()
        return {"samples_per_second": speed, "memory_gib": peak_memory(self.device) / GIB}


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of tensors on an accelerator, or the present memory of the process on a CPU, in bytes."""
    module = _device_module(device)
    if hasattr(module, "max_memory_allocated"):
        return module.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` start again. A CPU and a Mac (MPS) record no peak."""
    module = _device_module(device)
    if hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats(device)


def _device_module(device: torch.device) -> Any:
    return torch if device.type == "cpu" else torch.get_device_module(device)
