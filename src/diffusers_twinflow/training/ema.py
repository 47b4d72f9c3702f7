"""The moving average that flow matching keeps of what it trains; TwinFlow's teacher is in `teacher.py`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor, distribute_tensor

from ..sharding import local_part, reshard


class EMAOfTrained:
    """The exponential moving average of a model's trained weights, with diffusers' warm-up of the decay.

    Where the model is sharded, each process averages its own part; checkpoints hold whole tensors.

    Args:
        decay: what the decay approaches.
    """

    saved_names: Mapping[str, str] = {}

    def __init__(self, transformer: torch.nn.Module, decay: float, device: torch.device) -> None:
        self.transformer, self.device = transformer, device
        self.parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        # parts of parameters, where the model is sharded; EMAModel is annotated for whole ones
        self.trained: list[Any] = [local_part(parameter).requires_grad_(True) for parameter in self.parameters]
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
        reshard(self.transformer)
        self.average.store(self.trained)
        self.average.copy_to(self.trained)
        try:
            yield
        finally:
            reshard(self.transformer)
            self.average.restore(self.trained)

    def state_dict(self) -> dict[str, Any]:
        """The state with whole tensors, which all processes gather."""
        parts = zip(self.average.shadow_params, self.parameters)
        return self.average.state_dict() | {"shadow_params": [_whole(part, parameter) for part, parameter in parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values = zip(state["shadow_params"], self.parameters)
        parts = [_part(value.to(self.device), parameter) for value, parameter in values]
        self.average.load_state_dict(state | {"shadow_params": parts, "decay": self.average.decay})
        self.average.to(self.device)


def _whole(part: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """What the parts of all processes make up, each being the part that belongs to a process's part of `parameter`."""
    if not isinstance(parameter, DTensor):
        return part
    whole = DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )
    return whole.full_tensor()


def _part(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
