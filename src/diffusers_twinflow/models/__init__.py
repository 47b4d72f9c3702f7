from .modeling_twinflow import TwinFlowTransformerMixin, disable_twinflow, enable_twinflow
from .time_conditioning import TimeConditioning
from .transformer_sd3 import TwinFlowSD3Transformer2DModel

__all__ = [
    "TimeConditioning",
    "TwinFlowSD3Transformer2DModel",
    "TwinFlowTransformerMixin",
    "disable_twinflow",
    "enable_twinflow",
]
