"""Run work in one process for all processes."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..configuration import TwinFlowConfigError

Result = TypeVar("Result")


def on_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Run `work` in the main process, and return its result or raise its error in every process."""
    outcome: list = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (TwinFlowConfigError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
