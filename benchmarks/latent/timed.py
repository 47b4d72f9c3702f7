"""Training that ends after given minutes, with a learning rate schedule that ends with them.

The clock starts after the first steps, which compile and allocate memory. Their time is reported separately.
"""

import time
from dataclasses import asdict, dataclass

import torch

from diffusers_twinflow.training import Trainer
from diffusers_twinflow.training.callbacks import TrainerCallback, default_callbacks
from quality.timing import synchronize

UNTIMED_STEPS = 12
"""The teacher of TwinFlow and the optimizer are complete after a few steps, and everything is compiled."""


@dataclass
class Usage:
    """What a training used.

    Attributes:
        steps: steps made, the untimed ones included.
        seconds: time of the timed steps.
        start_seconds: time of the untimed steps, with compilation.
        seconds_per_step: mean over the timed steps.
        peak_gib: peak memory that torch allocated on the GPU, or `None` on a CPU.
    """

    steps: int
    seconds: float
    start_seconds: float
    seconds_per_step: float
    peak_gib: float | None

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


class Clock:
    """Measures a training and says when it ends.

    Args:
        minutes: time of the timed steps.
        warm_up: steps over which the learning rate rises.
        decay_share: share of the time in which the learning rate falls linearly to 0.
    """

    def __init__(self, minutes: float, warm_up: int, decay_share: float):
        self.limit, self.warm_up, self.decay_share = 60 * minutes, warm_up, decay_share
        self.steps, self.seconds, self.start_seconds = 0, 0.0, 0.0
        self.since = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def tick(self) -> None:
        """Count a step. Waits for the device."""
        synchronize()
        self.steps += 1
        if self.steps == UNTIMED_STEPS:
            now = time.perf_counter()
            self.start_seconds, self.since = now - self.since, now
        elif self.steps > UNTIMED_STEPS:
            self.seconds = time.perf_counter() - self.since

    def finish_step(self, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
        """Update the weights from their gradients, clear the gradients, and count the step."""
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        self.tick()

    @property
    def is_over(self) -> bool:
        return self.steps > UNTIMED_STEPS and self.seconds >= self.limit

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate of a step. The decay depends on the time that has passed."""
        left = max(0.0, 1 - self.seconds / self.limit)
        return min(1.0, (step + 1) / max(1, self.warm_up)) * min(1.0, left / self.decay_share)

    def usage(self) -> Usage:
        timed = max(1, self.steps - UNTIMED_STEPS)
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
        return Usage(self.steps, self.seconds, self.start_seconds, self.seconds / timed, peak)


class ClockCallback(TrainerCallback):
    """Ends a run when its clock says so."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_step(self, trainer: Trainer, step: int) -> None:
        self.clock.tick()
        if self.clock.is_over:
            trainer.stop()


class TimedTrainer(Trainer):
    """A trainer whose run, and whose learning rate schedule, last as long as a clock says."""

    def __init__(self, clock: Clock, model, arguments, method, data):
        callbacks = [*default_callbacks(arguments), ClockCallback(clock)]
        super().__init__(model, arguments, method, data, callbacks=callbacks)
        self.clock = clock

    def build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.clock.factor)
