"""What the families of diffusion models share: the bridge that makes their network a velocity of the flow."""

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
    """A model that a diffusion scheduler samples from, or the same architecture trained as a flow.

    The pipeline's scheduler says which: `bind` reads it, and comes before `velocity`.
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
                f"the {self.name} family does not know the noise schedule: bind(pipeline) first."
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
        """What the network itself predicts, of the shape of `sample`.

        Args:
            sample: the network's input, in its own scale.
            times: the arguments of its forward that `Family.times` gives.
        """
        raise NotImplementedError
