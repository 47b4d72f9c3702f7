"""Replay the random numbers of a forward pass, such as its dropout masks, in another pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class RNGSnapshot:
    """The state of the CPU generator and of one device's generator, recorded in the constructor."""

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device(device)
        self.cpu_state = torch.get_rng_state()
        self.device_state = self._device_module.get_rng_state(self.device) if self._device_module else None

    @property
    def _device_module(self) -> Any:
        return None if self.device.type == "cpu" else torch.get_device_module(self.device)

    def restore(self) -> None:
        """Set the generators to the state of the snapshot."""
        torch.set_rng_state(self.cpu_state)
        if self._device_module:
            self._device_module.set_rng_state(self.device_state, self.device)

    def is_current(self) -> bool:
        """Whether no random number was drawn since the snapshot."""
        now = RNGSnapshot(self.device)
        is_same = np.array_equal(now.cpu_state.numpy(), self.cpu_state.numpy())
        if self.device_state is None or now.device_state is None:
            return is_same
        return is_same and np.array_equal(now.device_state.numpy(), self.device_state.numpy())

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Run the body with the snapshot's state, and restore the state from before afterwards."""
        outer = RNGSnapshot(self.device)
        self.restore()
        try:
            yield
        finally:
            outer.restore()
