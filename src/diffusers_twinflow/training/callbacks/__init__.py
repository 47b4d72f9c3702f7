"""The parts of a training run besides its steps, as callbacks."""

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
    """The callbacks that the arguments ask for, in the order in which the trainer calls them.

    Progress comes last, so that what the others do after a step does not count as time of the next one.
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
