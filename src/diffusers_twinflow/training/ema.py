"""The moving average that flow matching keeps of what it trains; TwinFlow's teacher is in `teacher.py`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel


class EMAOfTrained:
    """The exponential moving average of a model's trained weights, with diffusers' warm-up of the decay.

    Args:
        decay: what the decay approaches.
    """

    def __init__(self, transformer: torch.nn.Module, decay: float, device: torch.device):
        self.trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        self.device = device
        self.average = EMAModel(self.trained, decay=decay, foreach=True)
        self.average.to(device)

    @property
    def decay(self) -> float:
        return float(self.average.cur_decay_value or 0.0)

    def update(self) -> None:
        """Move the average once, after an optimizer step."""
        self.average.step(self.trained)

    @contextmanager
    def activated(self) -> Iterator[None]:
        """The model has the average as its weights within the context."""
        self.average.store(self.trained)
        self.average.copy_to(self.trained)
        try:
            yield
        finally:
            self.average.restore(self.trained)

    def state_dict(self) -> dict:
        return self.average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.average.load_state_dict(state)
        self.average.to(self.device)
