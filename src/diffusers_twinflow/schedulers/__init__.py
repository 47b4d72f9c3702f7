"""The few-step sampler of TwinFlow models."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names
from . import scheduling_twinflow  # noqa: F401  (diffusers looks for it among the loaded modules)

if TYPE_CHECKING:
    from .prediction import stock_scheduler_name
    from .twinflow_scheduler import TwinFlowScheduler, TwinFlowSchedulerOutput

__all__ = ["TwinFlowScheduler", "TwinFlowSchedulerOutput", "stock_scheduler_name"]

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    __getattr__, __dir__ = lazy_names(
        globals(),
        {
            "TwinFlowScheduler": ".twinflow_scheduler",
            "TwinFlowSchedulerOutput": ".twinflow_scheduler",
            "stock_scheduler_name": ".prediction",
        },
    )
