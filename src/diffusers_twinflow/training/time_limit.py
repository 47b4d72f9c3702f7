"""Ending a run in time."""

import time

import torch
from accelerate import Accelerator


class TimeLimit:
    """Tells all processes alike when the time of a run is over.

    Args:
        minutes: from now; `None` for no limit.
    """

    def __init__(self, minutes: float | None, accelerator: Accelerator) -> None:
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.accelerator = accelerator

    def is_over(self) -> bool:
        """Whether it is over for any process; all call it, and wait for each other."""
        if self.deadline is None:
            return False
        is_over = torch.tensor(float(time.monotonic() > self.deadline), device=self.accelerator.device)
        return bool(self.accelerator.reduce(is_over, reduction="sum"))
