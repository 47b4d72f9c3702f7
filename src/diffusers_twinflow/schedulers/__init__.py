from .scheduling_twinflow import TwinFlowScheduler, TwinFlowSchedulerOutput

__all__ = ["TwinFlowScheduler", "TwinFlowSchedulerOutput"]
