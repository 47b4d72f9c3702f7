"""Pipelines with TwinFlow weights, and their export to other tools."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .exporting import export
    from .pipeline_twinflow import TwinFlowPipeline, as_twinflow_pipeline

__all__ = ["TwinFlowPipeline", "as_twinflow_pipeline", "export"]

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    __getattr__, __dir__ = lazy_names(
        globals(),
        {
            "TwinFlowPipeline": ".pipeline_twinflow",
            "as_twinflow_pipeline": ".pipeline_twinflow",
            "export": ".exporting",
        },
    )
