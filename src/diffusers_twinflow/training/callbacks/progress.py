"""Show progress, measure the speed, and stop a run at its time limit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from accelerate.logging import get_logger
from tqdm.auto import tqdm

from ...methods.base import LossOutput
from ..compilation import compiled_graphs
from ..distributed import TimeLimit
from ..tracking import Throughput
from .base import TrainerCallback

if TYPE_CHECKING:
    from ..trainer import Trainer

logger = get_logger(__name__)
SHOWN = ("loss", "lr")


class ProgressCallback(TrainerCallback):
    """Shows a progress bar, and logs the samples per second, the memory in use and what was compiled."""

    bar: tqdm | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        schedule = trainer.schedule
        self.bar = tqdm(
            total=schedule.total_steps,
            initial=schedule.first_step,
            desc="Steps",
            disable=not trainer.accelerator.is_local_main_process,
        )
        self.throughput = Throughput(trainer.accelerator.device)
        if trainer.arguments.compile:
            logger.info("compiling the transformer's blocks in the first step, which can take minutes")

    def on_step_begin(self, trainer: Trainer) -> None:
        self.step_began, self.graphs = time.monotonic(), compiled_graphs()

    def on_loss(self, trainer: Trainer, output: LossOutput, batch_size: int) -> None:
        self.throughput.samples += batch_size * trainer.accelerator.num_processes

    def on_step(self, trainer: Trainer, step: int) -> None:
        if self.bar is not None:
            self.bar.update()
        if graphs := compiled_graphs() - self.graphs:
            seconds = time.monotonic() - self.step_began
            logger.info(f"step {step} took {seconds:.0f} s, because it compiled {graphs} graphs")

    def log_values(self, trainer: Trainer, step: int) -> dict[str, float]:
        return self.throughput.report()

    def on_log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        if self.bar is not None:
            self.bar.set_postfix({name: values[name] for name in SHOWN if name in values})

    def on_due(self, trainer: Trainer, step: int, is_resumed: bool) -> None:
        self.throughput.start()

    def on_exit(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.close()


class TimeLimitCallback(TrainerCallback):
    """Ends the run after `max_train_minutes` and saves the result as if training were complete.

    The time is checked when values are logged, because the processes wait for each other then anyway.
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        self.limit = TimeLimit(trainer.arguments.max_train_minutes, trainer.accelerator)

    def on_log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        if self.limit.is_over():
            trainer.stop()
