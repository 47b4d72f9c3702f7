from .exporting import export
from .pipeline_twinflow import TwinFlowPipeline, as_twinflow_pipeline

__all__ = ["TwinFlowPipeline", "as_twinflow_pipeline", "export"]
