"""What happens beside the steps of a training run: each concern is a callback that can be dropped, replaced or added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...methods.base import LossOutput

if TYPE_CHECKING:
    from ..trainer import Trainer


class TrainerCallback:
    """Does nothing; override what you need. All processes call every method, in the same order.

    Example:

        class PrintLoss(TrainerCallback):
            def on_log(self, trainer, step, values):
                print(step, values["loss"])

        Trainer(..., callbacks=[*default_callbacks(arguments), PrintLoss()])
    """

    def on_prepare(self, trainer: Trainer) -> None:
        """Called once the model is ready, before anything is trained or a checkpoint is loaded."""

    def on_train_begin(self, trainer: Trainer) -> None:
        """Called before the first step, after a checkpoint was loaded. `trainer.stop()` ends the run here."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """Called before the first micro-batch of a step."""

    def on_loss(self, trainer: Trainer, output: LossOutput, batch_size: int) -> None:
        """Called after the backward pass of each micro-batch."""

    def takes_step(self, trainer: Trainer, grad_norm: torch.Tensor) -> bool:
        """Whether the optimizer may take the step with a gradient of that norm; every callback must agree."""
        return True

    def on_step(self, trainer: Trainer, step: int) -> None:
        """Called after each optimizer step."""

    def log_values(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Values to log, asked for every `logging_steps` steps."""
        return {}

    def on_log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        """Called with the values that all callbacks and the trainer log."""

    def is_due(self, trainer: Trainer, step: int) -> bool:
        """Whether `on_due` has work that belongs to this step."""
        return False

    def on_due(self, trainer: Trainer, step: int, is_resumed: bool) -> None:
        """Called after a step for which any callback is due. What belongs to the last step is done in `on_train_end`.

        Args:
            is_resumed: whether the run was resumed from this step's checkpoint; then only what is missing is done.
        """

    def score(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Scores of the current weights by name, for `Trainer.evaluate`."""
        return {}

    def before_save(self, trainer: Trainer, step: int) -> None:
        """Called before the result is written; an error here keeps it from being written."""

    def on_train_end(self, trainer: Trainer, step: int) -> None:
        """Called after the result is written, before the model card."""
