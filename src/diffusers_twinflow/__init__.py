"""TwinFlow few-step distillation for diffusers."""

from .configuration import TwinFlowConfig, TwinFlowConfigError
from .hub import (
    TwinFlowRepositoryConfig,
    load_twinflow_lora,
    push_twinflow_lora,
    save_twinflow_lora,
    unload_twinflow_lora,
)
from .models import TwinFlowSD3Transformer2DModel, TwinFlowTransformerMixin, disable_twinflow, enable_twinflow
from .pipelines import TwinFlowPipeline
from .schedulers import TwinFlowScheduler

__version__ = "0.1.0"

__all__ = [
    "TwinFlowConfig",
    "TwinFlowConfigError",
    "TwinFlowPipeline",
    "TwinFlowRepositoryConfig",
    "TwinFlowSD3Transformer2DModel",
    "TwinFlowScheduler",
    "TwinFlowTransformerMixin",
    "disable_twinflow",
    "enable_twinflow",
    "load_twinflow_lora",
    "push_twinflow_lora",
    "save_twinflow_lora",
    "unload_twinflow_lora",
]
