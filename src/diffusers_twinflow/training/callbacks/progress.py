"""Show progress, measure the speed, and end a run in time."""

from tqdm.auto import tqdm

from ..time_limit import TimeLimit
from ..trackers import Throughput
from .base import TrainerCallback

SHOWN = ("loss", "lr")


class ProgressCallback(TrainerCallback):
    """Shows a progress bar, and logs the samples per second and the memory in use."""

    def on_train_begin(self, trainer) -> None:
        schedule = trainer.schedule
        self.bar = tqdm(
            total=schedule.total_steps,
            initial=schedule.first_step,
            desc="Steps",
            disable=not trainer.accelerator.is_local_main_process,
        )
        self.throughput = Throughput(trainer.accelerator.device)

    def on_loss(self, trainer, output, batch_size: int) -> None:
        self.throughput.samples += batch_size * trainer.accelerator.num_processes

    def on_step(self, trainer, step: int) -> None:
        self.bar.update()

    def log_values(self, trainer, step: int) -> dict[str, float]:
        return self.throughput.report()

    def on_log(self, trainer, step: int, values: dict[str, float]) -> None:
        self.bar.set_postfix({name: values[name] for name in SHOWN if name in values})

    def on_due(self, trainer, step: int, is_resumed: bool) -> None:
        self.throughput.start()

    def on_train_end(self, trainer, step: int) -> None:
        self.bar.close()


class TimeLimitCallback(TrainerCallback):
    """Ends the run after `max_train_minutes`, as if it were complete."""

    def on_train_begin(self, trainer) -> None:
        self.limit = TimeLimit(trainer.arguments.max_train_minutes, trainer.accelerator)

    def on_log(self, trainer, step: int, values: dict[str, float]) -> None:
        if self.limit.is_over():
            trainer.stop()
