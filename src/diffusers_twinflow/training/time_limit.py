"""Limit the time of a run."""

import time

import torch
from accelerate import Accelerator


class TimeLimit:
    """Tells all processes at the same step when the time of a run is over.

    Args:
        minutes: time limit in minutes from now. `None` for no limit.
    """

    def __init__(self, minutes: float | None, accelerator: Accelerator) -> None:
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.accelerator = accelerator

    def is_over(self) -> bool:
        """Return whether the time is over for any process. All processes must call it."""
        if self.deadline is None:
            return False
        is_over = torch.tensor(float(time.monotonic() > self.deadline), device=self.accelerator.device)
        return bool(self.accelerator.reduce(is_over, reduction="sum"))
