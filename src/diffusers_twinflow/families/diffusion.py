"""The base class of families of diffusion models, whose output the bridge converts to a velocity."""

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from ..diff2flow import Diff2Flow
from .base import Family
from .scheduler_kind import is_flow_matching

if TYPE_CHECKING:
    from typing_extensions import Self


class DiffusionFamily(Family):
    """A family of diffusion models, or of models with the same architecture that were trained as a flow.

    The pipeline's scheduler decides which of the two it is. Call `bind`, which reads the scheduler, before `velocity`.
    """

    bridge: Diff2Flow | None = None
    is_bound = False

    def bind(self, pipeline: DiffusionPipeline) -> "Self":
        bound, scheduler = copy(self), pipeline.scheduler
        bound.is_bound = True
        if not is_flow_matching(type(scheduler).__name__, scheduler.config):
            bound.bridge = Diff2Flow.from_config(scheduler.config)
        return bound

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        return super().timestep(t) if self.bridge is None else self.bridge.schedule.timestep_of(t)

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        if not self.is_bound:
            raise TwinFlowConfigError(
                f"The {self.name} family does not know the noise schedule: call bind(pipeline) before velocity."
            )

        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            dtype = condition["prompt_embeds"].dtype
            if self.bridge is None:
                return self.predict(model, x_t.to(dtype), self.times(t, r, sign), condition)
            network_input = self.bridge.network_input(x_t, t).to(dtype)
            output = self.predict(model, network_input, self.times(t, r, sign), condition)
            return self.bridge.velocity(output.float(), x_t, t)

        return velocity

    def predict(
        self, model: Callable[..., Any], sample: torch.Tensor, times: dict[str, torch.Tensor], condition: Condition
    ) -> torch.Tensor:
        """Return the output of the network, in the shape of `sample`.

        Args:
            model: the network.
            sample: the network's input, already scaled for it.
            times: time arguments of the forward, from `Family.times`.
            condition: the condition, from `encode_prompts`.
        """
        raise NotImplementedError
