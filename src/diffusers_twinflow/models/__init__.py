from .modeling_twinflow import TwinFlowTransformerMixin
from .second_embedder import SecondEmbedder
from .time_conditioning import TimeConditioning
from .transformers import (
    TWINFLOW_CLASSES,
    disable_twinflow,
    enable_twinflow,
    is_twinflow_transformer,
    twinflow_class_of,
    uncompiled,
)

globals().update({twinflow_class.__name__: twinflow_class for twinflow_class in TWINFLOW_CLASSES.values()})

__all__ = [
    "SecondEmbedder",
    "TimeConditioning",
    "TwinFlowTransformerMixin",
    "disable_twinflow",
    "enable_twinflow",
    "is_twinflow_transformer",
    "twinflow_class_of",
    "uncompiled",
    *sorted(twinflow_class.__name__ for twinflow_class in TWINFLOW_CLASSES.values()),
]
