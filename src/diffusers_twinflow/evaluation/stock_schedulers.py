"""Stock schedulers that sample a base in few steps."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ..configuration import TwinFlowConfigError
from ..families.scheduler_kind import is_flow_matching
from .arguments import EULER, LCM, UNIPC

Builder = Callable[[Any], SchedulerMixin]


class SeededNoise:
    """Draws the fresh noise of each image from the image's generator, which most stock pipelines do not pass on.

    Without it, an image would depend on the other images of its batch and process.

    Attributes:
        generators: generators of the images of the next call.
    """

    generators: list[torch.Generator] | None = None

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        parent: Any = super()
        return parent.step(
            model_output, timestep, sample, generator=generator or self.generators, return_dict=return_dict
        )


class SeededFlowMatchLCMScheduler(SeededNoise, FlowMatchLCMScheduler):  # type: ignore[misc]
    """`FlowMatchLCMScheduler` with the noise of `SeededNoise`."""


class SeededLCMScheduler(SeededNoise, LCMScheduler):  # type: ignore[misc]
    """`LCMScheduler` with the noise of `SeededNoise`."""


def _shift(config: Any) -> float:
    return config.get("shift", config.get("flow_shift", 1.0))


FLOW: dict[str, Builder] = {
    EULER: lambda config: FlowMatchEulerDiscreteScheduler.from_config(config, shift=_shift(config)),
    UNIPC: lambda config: UniPCMultistepScheduler.from_config(
        config, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=_shift(config)
    ),
    LCM: lambda config: SeededFlowMatchLCMScheduler.from_config(config, shift=_shift(config)),
}
DIFFUSION: dict[str, Builder] = {
    EULER: EulerDiscreteScheduler.from_config,
    UNIPC: UniPCMultistepScheduler.from_config,
    LCM: SeededLCMScheduler.from_config,
}


def stock_scheduler(name: str, scheduler: Any) -> SchedulerMixin:
    """Build a stock scheduler with the settings of the base's scheduler.

    Args:
        name: one of `SCHEDULERS`.
        scheduler: scheduler of the base.

    Raises:
        TwinFlowConfigError: if it does not fit the base.
    """
    config: Any = scheduler.config
    if name == UNIPC and config.get("invert_sigmas"):
        raise TwinFlowConfigError(
            f"{UNIPC} does not fit the base, whose {type(scheduler).__name__} has inverted sigmas. Leave it out of "
            "`schedulers`."
        )
    builders = FLOW if is_flow_matching(type(scheduler).__name__, config) else DIFFUSION
    return builders[name](config)
