"""The module in which saved pipelines find `TwinFlowScheduler`: their `model_index.json` names it.

diffusers looks for the class in a loaded module that also has `SchedulerMixin`. `import diffusers_twinflow` therefore
loads this module, which imports diffusers only when one of its names is used.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from .twinflow_scheduler import TwinFlowScheduler, TwinFlowSchedulerOutput

__all__ = ["SchedulerMixin", "TwinFlowScheduler", "TwinFlowSchedulerOutput"]

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    __getattr__, __dir__ = lazy_names(
        globals(),
        {
            "SchedulerMixin": "diffusers",
            "TwinFlowScheduler": ".twinflow_scheduler",
            "TwinFlowSchedulerOutput": ".twinflow_scheduler",
        },
    )
