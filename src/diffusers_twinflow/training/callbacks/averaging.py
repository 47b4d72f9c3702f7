"""Keep an exponential moving average (EMA) of the trained weights, for methods without a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ema import EMAOfTrained
from .base import TrainerCallback

if TYPE_CHECKING:
    from ..trainer import Trainer


class EMACallback(TrainerCallback):
    """Averages the trained weights. If `save_ema` is on, the average is saved and used for validation images."""

    def on_prepare(self, trainer: Trainer) -> None:
        if trainer.teacher is None:
            trainer.keep_average(
                EMAOfTrained(
                    trainer.transformer, trainer.arguments.flow_matching_ema_decay, trainer.accelerator.device
                )
            )

    def on_step(self, trainer: Trainer, step: int) -> None:
        if trainer.teacher is None and trainer.average is not None:
            trainer.average.update()
