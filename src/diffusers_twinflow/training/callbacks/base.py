"""Base class of callbacks. Each callback does one job that is not a training step; you can remove, replace or add them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...methods.base import LossOutput

if TYPE_CHECKING:
    from ..trainer import Trainer


EVENT = "on_"
"""Start of the names of the methods that are called at a point of the run."""


class TrainerCallback:
    """Base class that does nothing. Override the methods you need. All processes call every method, in the same order.

    Examples:
        >>> class PrintLoss(TrainerCallback):
        ...     def on_log(self, trainer, step, values):
        ...         print(step, values["loss"])
        >>> Trainer(..., callbacks=[*default_callbacks(arguments), PrintLoss()])
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the names of a subclass's events. A method with another name would never be called.

        Raises:
            TypeError: if a method's name starts with "on_" and is not an event.
        """
        super().__init_subclass__(**options)
        events = [name for name in dir(TrainerCallback) if name.startswith(EVENT)]
        for name in vars(cls):
            if name.startswith(EVENT) and name not in events:
                raise TypeError(
                    f"{cls.__name__}.{name} is not an event of TrainerCallback. Events: {', '.join(events)}."
                )

    def on_prepare(self, trainer: Trainer) -> None:
        """Called once when the model is ready, before a checkpoint is loaded and training starts."""

    def on_train_begin(self, trainer: Trainer) -> None:
        """Called before the first step, after a checkpoint is loaded. Call `trainer.stop()` here to end the run."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """Called before the first micro-batch of a step."""

    def on_loss(self, trainer: Trainer, output: LossOutput, batch_size: int) -> None:
        """Called after the backward pass of each micro-batch."""

    def takes_step(self, trainer: Trainer, grad_norm: torch.Tensor) -> bool:
        """Return whether the optimizer may take a step with this gradient norm. All callbacks must return `True`."""
        return True

    def on_step(self, trainer: Trainer, step: int) -> None:
        """Called after each optimizer step."""

    def log_values(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Return values to log. Called every `logging_steps` steps."""
        return {}

    def on_log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        """Called with the logged values of all callbacks and of the trainer."""

    def is_due(self, trainer: Trainer, step: int) -> bool:
        """Return whether `on_due` must be called after this step."""
        return False

    def on_due(self, trainer: Trainer, step: int, is_resumed: bool) -> None:
        """Called after a step if `is_due` of any callback is true. Work for the last step belongs in `on_train_end`.

        Args:
            is_resumed: whether the run was resumed from this step's checkpoint. If so, do only what is missing.
        """

    def score(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Return scores of the current weights by name, for `Trainer.evaluate`."""
        return {}

    def before_save(self, trainer: Trainer, step: int) -> None:
        """Called before the result is written. If it raises an error, the result is not written."""

    def on_train_end(self, trainer: Trainer, step: int) -> None:
        """Called after the result is written, before the model card."""

    def on_exit(self, trainer: Trainer) -> None:
        """Called when the run ends, also if it ends with an error. Other processes may not call it: do not wait for them."""
