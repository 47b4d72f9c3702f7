from .loading import load_twinflow_lora, unload_twinflow_lora
from .repository import TwinFlowRepositoryConfig, save_stock_lora, save_twinflow_lora, save_twinflow_model

__all__ = [
    "TwinFlowRepositoryConfig",
    "load_twinflow_lora",
    "save_stock_lora",
    "save_twinflow_lora",
    "save_twinflow_model",
    "unload_twinflow_lora",
]
