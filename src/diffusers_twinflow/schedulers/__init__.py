from .prediction import stock_scheduler_name
from .scheduling_twinflow import TwinFlowScheduler, TwinFlowSchedulerOutput

__all__ = ["TwinFlowScheduler", "TwinFlowSchedulerOutput", "stock_scheduler_name"]
