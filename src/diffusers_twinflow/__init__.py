"""TwinFlow few-step distillation for diffusers."""

from .configuration import TwinFlowConfig, TwinFlowConfigError
from .models import TwinFlowSD3Transformer2DModel, TwinFlowTransformerMixin

__version__ = "0.1.0"
