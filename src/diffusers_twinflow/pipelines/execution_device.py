"""The device that a pipeline runs on, found in one walk through its modules."""

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from ..models.offloading import has_offloading_hook

if TYPE_CHECKING:
    StockPipeline = DiffusionPipeline
else:
    StockPipeline = object


class QuickExecutionDevice(StockPipeline):
    """Gives a pipeline's `_execution_device` the stock answer sooner: the stock property goes through all modules often.

    It is asked where a module has a hook of offloading, accelerate's or that of groups.
    """

    @property
    def _execution_device(self) -> torch.device:
        models = {name: value for name, value in sorted(vars(self).items()) if isinstance(value, nn.Module)}
        if has_offloading_hook(models.values()):
            return super()._execution_device
        devices = [device_of(model) for name, model in models.items() if name in self.config]
        accelerators = [device for device in devices if device.type not in ("cpu", "meta")]
        return next(chain(accelerators, devices), torch.device("cpu"))


def device_of(model: Any) -> torch.device:
    """`model.device` of a model without hooks, for which diffusers would look once more."""
    if getattr(type(model), "device", None) is ModelMixin.device:
        for tensor in chain(model.parameters(), model.buffers()):
            return tensor.device
    return model.device
