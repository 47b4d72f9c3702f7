"""Where saved pipelines find `TwinFlowScheduler`: their `model_index.json` names this module.

diffusers looks a class up in a module that is loaded already and holds `SchedulerMixin` too. `import diffusers_twinflow`
therefore loads this module, which imports diffusers only when one of its names is used.
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
