"""Callbacks for everything in a training run except the steps."""

from ..arguments import TrainingArguments
from .averaging import EMACallback
from .base import TrainerCallback
from .checkpoints import CheckpointCallback
from .health import HealthCallback
from .progress import ProgressCallback, TimeLimitCallback
from .scores import ScoreCallback
from .trackers import TrackerCallback, TrajectoryCallback
from .validation import ValidationCallback

__all__ = [
    "CheckpointCallback",
    "EMACallback",
    "HealthCallback",
    "ProgressCallback",
    "ScoreCallback",
    "TimeLimitCallback",
    "TrackerCallback",
    "TrainerCallback",
    "TrajectoryCallback",
    "ValidationCallback",
    "default_callbacks",
]


def default_callbacks(arguments: TrainingArguments) -> list[TrainerCallback]:
    """Return the callbacks that the arguments need, in the order in which the trainer calls them.

    Progress is last, so that the time of the other callbacks does not count as time of the next step.
    """
    callbacks: list[TrainerCallback] = [HealthCallback()]
    if arguments.use_ema is not False:
        callbacks.append(EMACallback())
    if arguments.dry_run:
        return callbacks
    callbacks += [TrackerCallback(), CheckpointCallback(), ValidationCallback()]
    if arguments.score_steps:
        callbacks.append(ScoreCallback())
    if arguments.log_trajectory:
        callbacks.append(TrajectoryCallback())
    if arguments.max_train_minutes is not None:
        callbacks.append(TimeLimitCallback())
    return [*callbacks, ProgressCallback()]
