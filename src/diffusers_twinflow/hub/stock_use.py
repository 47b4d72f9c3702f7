"""Describe how to sample from a TwinFlow LoRA or model with stock diffusers."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

from ..diff2flow import DIFFUSION_PREDICTION_TYPES
from ..families import Family
from ..schedulers import TwinFlowScheduler
from ..schedulers.sigma_grid import KNOWN_STOCHASTIC_RATIO
from .portable import Portable

STOCK_SCHEDULER = FlowMatchEulerDiscreteScheduler.__name__


@dataclass(frozen=True)
class StockUse:
    """The scheduler and the arguments that a stock pipeline needs to sample from few-step weights.

    Attributes:
        scheduler_options: arguments of `FlowMatchEulerDiscreteScheduler`.
        sigmas: the `sigmas` argument of the call for each step count.
        call_options: other arguments of the call: they turn guidance off and set the prompt length used in training.
    """

    scheduler_options: dict[str, Any]
    sigmas: dict[int, list[float]]
    call_options: dict[str, Any]

    def scheduler_code(self) -> str:
        return f"{STOCK_SCHEDULER}({arguments_code(self.scheduler_options)})"

    def call_code(self, step_count: int) -> str:
        """Write the arguments of the stock call that follow the prompt."""
        steps = {"sigmas": self.sigmas[step_count], "num_inference_steps": step_count}
        return arguments_code(steps | self.call_options)

    def sigma_table(self) -> str:
        """Write the sigmas of each step count as a Markdown table."""
        rows = [f"| {count} | `{sigmas}` |" for count, sigmas in sorted(self.sigmas.items())]
        return "\n".join(["| steps | sigmas |", "|---|---|", *rows])


def stock_use(
    family: Family, scheduler: TwinFlowScheduler, portable: Portable, max_sequence_length: int | None = None
) -> StockUse | str:
    """Find out how a stock pipeline samples on a scheduler's grid.

    Args:
        family: model family of the pipeline.
        scheduler: scheduler of the TwinFlow weights.
        portable: how the stock weights carry the target time.
        max_sequence_length: length of the encoded prompts in training, in tokens. `None` for the pipeline's default.

    Returns:
        The scheduler and the arguments, or one sentence that says why the stock pipeline cannot do it.
    """
    if portable.reason is not None:
        return f"This model needs diffusers-twinflow, because stock weights cannot contain the target time: {portable.reason}."
    pipeline = family.pipeline_class.__name__
    if scheduler.config.prediction_type in DIFFUSION_PREDICTION_TYPES:
        return f"This is a diffusion model, so `{pipeline}` needs `TwinFlowScheduler` from diffusers-twinflow."
    parameters = inspect.signature(family.pipeline_class.__call__).parameters
    if "sigmas" not in parameters:
        return f"`{pipeline}` has no argument `sigmas`, so it needs `TwinFlowScheduler` for these sampling steps."
    if not family.takes_sigmas:
        return f"Use `TwinFlowScheduler`. We have not tested whether `{pipeline}` samples on the grid of its `sigmas`."
    ratio = plain_ratio(scheduler)
    if ratio is None or scheduler.config.invert_sigmas:
        return "Only `TwinFlowScheduler` has the sampling options of this model."
    sigmas = {int(count): values for count, values in portable.sigmas.items()}
    options = call_options(family, max_sequence_length)
    return StockUse({"stochastic_sampling": True} if ratio == 1 else {}, sigmas, options)


def call_options(family: Family, max_sequence_length: int | None) -> dict[str, Any]:
    """Return the call's arguments for every step count: they turn guidance off and set the trained prompt length."""
    options: dict[str, Any] = dict(family.guidance_off)
    takes_length = "max_sequence_length" in inspect.signature(family.pipeline_class.__call__).parameters
    if max_sequence_length is not None and takes_length:
        options["max_sequence_length"] = max_sequence_length
    return options


def plain_ratio(scheduler: TwinFlowScheduler) -> float | None:
    """Return the stochastic ratio of a scheduler if other samplers have the same steps, else `None`.

    The ratio is 1 (all noise is new in each step) or 0 (no new noise).
    """
    options = scheduler.config
    ratio = options.stochastic_ratio
    if ratio is None:
        ratio = KNOWN_STOCHASTIC_RATIO[options.sampling_style]
    is_plain = ratio in (0, 1) and options.sampling_order == 1
    if not is_plain or options.extrapolation_ratio or options.squeeze_target_time:
        return None
    return float(ratio)


def load_lora_code(source: str, files: Mapping[str, str]) -> str:
    """Write the lines of Python that load a LoRA into a stock pipeline.

    Args:
        source: folder or Hub id of the LoRA.
        files: the LoRA's file by denoiser, the one for high noise first.
    """
    source = json.dumps(source)
    first, *others = files
    if not others:
        return f"pipe.load_lora_weights({source})"
    lines = [f'pipe.load_lora_weights({source}, weight_name="{files[first]}", adapter_name="{first}")']
    lines += [
        f'pipe.load_lora_weights(\n    {source}, weight_name="{files[name]}", adapter_name="{name}", '
        f"load_into_{name}=True\n)"
        for name in others
    ]
    return "\n".join(lines)


def call_code(family: Family, arguments: str) -> str:
    """Write the line of Python that calls a stock pipeline of a family.

    Args:
        family: model family of the pipeline.
        arguments: arguments that follow the prompt, as Python code.
    """
    image = f'{family.image_argument}=load_image("before.png"), ' if family.takes_reference_image else ""
    result = family.task.split("-")[-1]
    return f'{result} = pipe({image}prompt="your prompt", {arguments}).{family.output_name}[0]'


def import_code(family: Family) -> str:
    """Write the import line that `call_code` needs, or "" if it needs none."""
    return "from diffusers.utils import load_image\n" if family.takes_reference_image else ""


def arguments_code(values: Mapping[str, Any]) -> str:
    """Write the arguments of a call as Python code."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
