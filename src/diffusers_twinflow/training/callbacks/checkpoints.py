"""Write checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerate.logging import get_logger

from ..saving import save_checkpoint
from ..training_health import check_finite
from .base import TrainerCallback

if TYPE_CHECKING:
    from ..trainer import Trainer

logger = get_logger(__name__)


class CheckpointCallback(TrainerCallback):
    """Writes a checkpoint of finite weights every `checkpointing_steps` steps."""

    def on_train_begin(self, trainer: Trainer) -> None:
        if trainer.schedule.first_step and trainer.folder is not None:
            # the run may have been killed after it wrote a checkpoint and before it removed the oldest
            trainer.folder.remove_old_checkpoints(trainer.arguments.checkpoints_total_limit)

    def is_due(self, trainer: Trainer, step: int) -> bool:
        return step % trainer.arguments.checkpointing_steps == 0

    def on_due(self, trainer: Trainer, step: int, is_resumed: bool) -> None:
        if is_resumed or not self.is_due(trainer, step):
            return
        check_finite(trainer.trainable, step, trainer.accelerator)
        save_checkpoint(
            trainer.arguments.output_dir,
            trainer.options,
            trainer.accelerator,
            trainer.model,
            step,
            trainer.folder,
            trainer.schedule.sizes,
            trainer.arguments.checkpoints_total_limit,
        )
        logger.info(f"step {step}: checkpoint saved")
