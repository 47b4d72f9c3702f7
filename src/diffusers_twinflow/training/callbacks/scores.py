"""Score generated images, keep the best weights, and stop early."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.logging import get_logger

from ...configuration import TwinFlowConfigError
from ...data import Samples
from ...evaluation.plugins import load_function
from ..scoring import ScoreBook, Scores
from .base import TrainerCallback

if TYPE_CHECKING:
    from ..trainer import Trainer

logger = get_logger(__name__)
BEST = "best"


class ScoreCallback(TrainerCallback):
    """Scores generated images every `score_steps` steps, and saves the best weights in `best/` of the output folder."""

    def on_train_begin(self, trainer: Trainer) -> None:
        args = trainer.arguments
        samples = getattr(trainer.data, "samples", None)
        if not isinstance(samples, Samples):
            raise TwinFlowConfigError(
                "`score_steps` needs the prompts and images of the data options, but `data` was passed to the trainer. "
                "Leave `score_steps` out, or score in your own callback."
            )
        judge = load_function(args.judge, "judge") if args.judge else None
        self.book = ScoreBook(
            args.output_dir,
            args.score_metric,
            args.score_higher_is_better,
            args.early_stopping_patience,
            trainer.schedule.first_step,
        )
        self.scores = Scores(args, trainer.family, trainer.accelerator, trainer.validation, samples, judge)

    def is_due(self, trainer: Trainer, step: int) -> bool:
        return step % (trainer.arguments.score_steps or 1) == 0

    def on_due(self, trainer: Trainer, step: int, is_resumed: bool) -> None:
        if self.is_due(trainer, step) and step != trainer.schedule.total_steps and not self.book.has(step):
            trainer.attempt(step, "scoring", lambda: self.score(trainer, step))
        if self.book.is_over:
            trainer.stop()

    def on_train_end(self, trainer: Trainer, step: int) -> None:
        if not self.book.has(step):
            trainer.attempt(step, "scoring", lambda: self.score(trainer, step))
        trainer.last_scores = self.book.last

    def score(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Score the weights that would be saved now, and save them if they are the best so far."""
        values = self.scores.measure(trainer.average, trainer.describe(step))
        is_best = self.book.add(step, values)
        trainer.accelerator.log({f"score/{name}": value for name, value in values.items()}, step=step)
        if is_best:
            trainer.save(Path(trainer.arguments.output_dir, BEST), step)
        if trainer.accelerator.is_main_process:
            self.book.save()
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            logger.info(f"step {step}: {shown} (best so far: step {self.book.best['step']})")
        return values
