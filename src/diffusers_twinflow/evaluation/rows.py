"""The rows of an evaluation: which model generates images with which scheduler in how many steps."""

import inspect
from dataclasses import dataclass
from typing import Any

from ..configuration import TwinFlowConfigError
from ..families import Family
from ..hub.sample_images import count_of_steps
from .arguments import EvaluationArguments

BASE, TWINFLOW = "base", "TwinFlow"


@dataclass(frozen=True)
class Row:
    """One way to generate all images.

    Attributes:
        model: "base" or "TwinFlow".
        steps: number of steps.
        scheduler: name of the stock scheduler, or `None` for the scheduler of the model's pipeline.
    """

    model: str
    steps: int
    scheduler: str | None = None

    @property
    def method(self) -> str:
        """The model and its scheduler, such as "base, unipc"."""
        return self.model if self.scheduler is None else f"{self.model}, {self.scheduler}"

    @property
    def label(self) -> str:
        """The row in words, such as "base, unipc, 4 steps"."""
        return f"{self.method}, {count_of_steps(self.steps)}"

    @property
    def folder(self) -> str:
        """Name of the folder with the row's images."""
        return self.label.replace(", ", "-").replace(" ", "-").lower()


def rows_of(args: EvaluationArguments, family: Family) -> list[Row]:
    """Return the rows of an evaluation: the base at many steps, then at few steps per scheduler, then TwinFlow.

    Args:
        args: options of the evaluation.
        family: model family of the base.

    Raises:
        TwinFlowConfigError: if the stock pipeline has no default number of steps and `base_steps` is not given.
    """
    steps = list(dict.fromkeys(args.steps))
    distilled = [Row(TWINFLOW, count) for count in steps]
    if not args.base:
        return distilled
    few = [Row(BASE, count, name) for name in args.stock_schedulers for count in steps]
    return [Row(BASE, args.base_steps or default_steps(family)), *few, *distilled]


def default_steps(family: Family) -> int:
    """Return the default number of steps of the stock pipeline."""
    call: Any = family.pipeline_class.__call__
    steps = inspect.signature(call).parameters["num_inference_steps"].default
    if not isinstance(steps, int):
        raise TwinFlowConfigError(
            f"{family.pipeline_class.__name__} has no default number of steps: pass `base_steps`."
        )
    return steps
