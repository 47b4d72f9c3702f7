"""Send logged values to accelerate's trackers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...configuration import TwinFlowConfigError
from ...methods import TwinFlow
from ...methods.twinflow.trajectory import COLUMNS, NAME, TITLE, trajectory_picture, trajectory_rows
from ..saving import plain_arguments
from ..tracking import log_picture, log_points, start_trackers
from .base import TrainerCallback

if TYPE_CHECKING:
    from ..trainer import Trainer

TRAJECTORY_POINTS = 1024


class TrackerCallback(TrainerCallback):
    """Starts the trackers that `report_to` names, and sends them the logged values."""

    def on_prepare(self, trainer: Trainer) -> None:
        start_trackers(trainer.accelerator, trainer.arguments.tracker_project_name, plain_arguments(trainer.options))

    def on_log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        trainer.accelerator.log(values, step=step)


class TrajectoryCallback(TrainerCallback):
    """Logs a plot of the times and target times trained since the last logging step (only for TwinFlow)."""

    def on_prepare(self, trainer: Trainer) -> None:
        if not isinstance(trainer.method, TwinFlow):
            raise TwinFlowConfigError(
                f"`log_trajectory` works only with TwinFlow, but the method is {trainer.method.name}. Leave it out."
            )
        self.method = trainer.method

    def on_log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        if not trainer.accelerator.is_main_process:
            return
        schedule = trainer.schedule
        first = max(schedule.first_step, step - trainer.arguments.logging_steps) * schedule.step_samples
        positions = range(first, step * schedule.step_samples)[-TRAJECTORY_POINTS:]
        rows = trajectory_rows(self.method, positions, trainer.arguments.seed)
        log_picture(trainer.accelerator, NAME, trajectory_picture(rows), step)
        log_points(trainer.accelerator, NAME, COLUMNS, rows, TITLE, step)
