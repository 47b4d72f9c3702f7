"""Skip steps whose gradient is not finite, and log the losses of each branch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ...methods.base import LossOutput
from ..distributed import uses_deepspeed
from ..training_health import TrainingHealth
from .base import TrainerCallback

if TYPE_CHECKING:
    from ..trainer import Trainer


class HealthCallback(TrainerCallback):
    """Logs the mean losses, skips steps whose gradient is not finite, and stops a run that skips too many steps.

    Args:
        longest_run: maximum number of steps in a row that may be skipped.
    """

    def __init__(self, longest_run: int = 20) -> None:
        self.longest_run = longest_run

    def on_train_begin(self, trainer: Trainer) -> None:
        self.health = TrainingHealth(
            trainer.optimizer.optimizer,
            trainer.accelerator.device,
            trainer.method.branch_names,
            trainer.method.part_names,
            self.longest_run,
            decides=trainer.accelerator.scaler is None and not uses_deepspeed(trainer.accelerator),
        )

    def on_loss(self, trainer: Trainer, output: LossOutput, batch_size: int) -> None:
        self.health.record(output)

    def takes_step(self, trainer: Trainer, grad_norm: torch.Tensor) -> bool:
        return self.health.guard_step(grad_norm)

    def log_values(self, trainer: Trainer, step: int) -> dict[str, float]:
        return self.health.report(partial(trainer.accelerator.reduce, reduction="sum"))

    def before_save(self, trainer: Trainer, step: int) -> None:
        self.health.check_end(step - trainer.schedule.first_step)
