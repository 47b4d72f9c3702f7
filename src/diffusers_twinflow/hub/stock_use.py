"""How to sample from a TwinFlow LoRA or model with stock diffusers alone."""

import inspect
from dataclasses import dataclass
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

from ..families import Family
from ..schedulers import TwinFlowScheduler
from ..schedulers.sigma_grid import KNOWN_STOCHASTIC_RATIO
from .portable import Portable

STOCK_SCHEDULER = FlowMatchEulerDiscreteScheduler.__name__


@dataclass(frozen=True)
class StockUse:
    """What a stock pipeline needs to draw the images of the few-step weights.

    Attributes:
        scheduler_options: arguments of `FlowMatchEulerDiscreteScheduler`.
        sigmas: the `sigmas` of the call for each step count.
        call_options: the other arguments of the call: guidance off, and prompts of the length of the training.
    """

    scheduler_options: dict[str, Any]
    sigmas: dict[int, list[float]]
    call_options: dict[str, Any]

    def scheduler_code(self) -> str:
        return f"{STOCK_SCHEDULER}({_arguments(self.scheduler_options)})"

    def call_code(self, step_count: int) -> str:
        """The arguments of the stock call, after the prompt."""
        return _arguments({"sigmas": self.sigmas[step_count], "num_inference_steps": step_count, **self.call_options})


def stock_use(
    family: Family, scheduler: TwinFlowScheduler, portable: Portable, max_sequence_length: int | None = None
) -> StockUse | str:
    """How a stock pipeline of a family runs the grid of a scheduler, or why it cannot.

    Args:
        max_sequence_length: length of the encoded prompts in training, in tokens; `None` for the pipeline's default.

    Returns:
        what it needs, or one sentence that says why the stock pipeline cannot do it.
    """
    if portable.reason is not None:
        return f"The stock weights cannot carry the target time of this model: {portable.reason}."
    options = scheduler.config
    pipeline = family.pipeline_class.__name__
    if options.prediction_type not in ("flow_matching", "flow_prediction"):
        return f"`{pipeline}` samples a diffusion model, so it needs `TwinFlowScheduler`."
    parameters = inspect.signature(family.pipeline_class.__call__).parameters
    if "sigmas" not in parameters:
        return f"`{pipeline}` takes no `sigmas`, so it needs `TwinFlowScheduler` for this sampling grid."
    ratio = options.stochastic_ratio
    if ratio is None:
        ratio = KNOWN_STOCHASTIC_RATIO[options.sampling_style]
    if ratio not in (0, 1) or options.extrapolation_ratio or options.sampling_order != 1 or options.invert_sigmas:
        return "The sampling options of this model exist in `TwinFlowScheduler` only."
    sigmas = {int(count): values for count, values in portable.sigmas.items()}
    call_options: dict[str, Any] = dict(family.guidance_off)
    if max_sequence_length is not None and "max_sequence_length" in parameters:
        call_options["max_sequence_length"] = max_sequence_length
    return StockUse({"stochastic_sampling": True} if ratio == 1 else {}, sigmas, call_options)


def _arguments(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
