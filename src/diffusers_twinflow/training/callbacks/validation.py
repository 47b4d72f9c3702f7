"""Generate validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from accelerate.logging import get_logger

from ...hub.grids import labelled_grid
from ...hub.sample_images import STEP_COUNTS
from ..distributed import on_main_process
from ..saving import save_sample_grid
from ..tracking import log_picture
from ..validation_images import grid_path, save_validation_grid
from .base import TrainerCallback

if TYPE_CHECKING:
    from ..trainer import Trainer

logger = get_logger(__name__)


class ValidationCallback(TrainerCallback):
    """Generates validation images every `validation_steps` steps, and the images of the model card at the end."""

    def on_prepare(self, trainer: Trainer) -> None:
        trainer.validation.draw_base()

    def is_due(self, trainer: Trainer, step: int) -> bool:
        return step % trainer.schedule.validation_steps == 0

    def on_due(self, trainer: Trainer, step: int, is_resumed: bool) -> None:
        output_dir = trainer.arguments.output_dir
        is_drawn = is_resumed and on_main_process(trainer.accelerator, grid_path(output_dir, step).is_file)
        if self.is_due(trainer, step) and step != trainer.schedule.total_steps and not is_drawn:
            trainer.attempt(step, "generating the validation images", lambda: self.draw(trainer, step))

    def on_train_end(self, trainer: Trainer, step: int) -> None:
        trainer.attempt(step, "generating the validation images", lambda: self._draw_last(trainer, step))

    def draw(self, trainer: Trainer, step: int, needed: Sequence[int] = ()) -> None:
        """Generate the validation images, save them as a grid and send them to the trackers.

        Args:
            needed: step counts in addition to `validation_num_inference_steps`.
        """
        args = trainer.arguments
        if not args.validation_prompts:
            return
        step_counts = sorted({*args.validation_step_counts, *needed})
        columns = trainer.validation.draw(trainer.average, step_counts, trainer.describe(step))
        if trainer.accelerator.is_main_process:
            grid = labelled_grid(columns, args.validation_prompts)
            log_picture(trainer.accelerator, "validation", grid, step)
            logger.info(f"step {step}: validation images in {save_validation_grid(args.output_dir, step, grid)}")

    def _draw_last(self, trainer: Trainer, step: int) -> None:
        args = trainer.arguments
        self.draw(trainer, step, STEP_COUNTS)
        if args.validation_prompts and trainer.config.twinflow_enabled and trainer.accelerator.is_main_process:
            save_sample_grid(args, trainer.validation.samples(STEP_COUNTS))
