"""Exponential moving average of the trained weights, for flow matching. TwinFlow has a teacher instead."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor, distribute_tensor

from ..sharding import local_part, reshard


class EMAOfTrained:
    """Keeps an exponential moving average of a model's trained weights, with diffusers' warm-up of the decay.

    If the model is sharded, each process averages its part. Checkpoints contain whole tensors.

    Args:
        decay: final value of the decay after the warm-up.
    """

    saved_names: Mapping[str, str] = {}

    def __init__(self, transformer: torch.nn.Module, decay: float, device: torch.device) -> None:
        self.transformer, self.device = transformer, device
        self.parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        # parts of parameters if the model is sharded; EMAModel's annotation is for whole parameters
        self.trained: list[Any] = [local_part(parameter).requires_grad_(True) for parameter in self.parameters]
        self.average = EMAModel(self.trained, decay=decay, foreach=True)
        self.average.to(device)

    @property
    def decay(self) -> float:
        return float(self.average.cur_decay_value or 0.0)

    def update(self) -> None:
        """Update the average after an optimizer step."""
        self.average.step(self.trained)

    @contextmanager
    def activated(self) -> Iterator[None]:
        """Use the average as the model's weights inside the `with` block."""
        reshard(self.transformer)
        self.average.store(self.trained)
        self.average.copy_to(self.trained)
        try:
            yield
        finally:
            reshard(self.transformer)
            self.average.restore(self.trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the state with whole tensors. All processes must call it."""
        parts = zip(self.average.shadow_params, self.parameters)
        return self.average.state_dict() | {"shadow_params": [_whole(part, parameter) for part, parameter in parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values = zip(state["shadow_params"], self.parameters)
        parts = [_part(value.to(self.device), parameter) for value, parameter in values]
        self.average.load_state_dict(state | {"shadow_params": parts, "decay": self.average.decay})
        self.average.to(self.device)


def _whole(part: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Gather a whole tensor from the parts of all processes, which are sharded like `parameter`."""
    if not isinstance(parameter, DTensor):
        return part
    whole = DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )
    return whole.full_tensor()


def _part(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a whole tensor, which is sharded like `parameter`."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
