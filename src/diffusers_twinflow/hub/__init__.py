from .repository import (
    TwinFlowRepositoryConfig,
    load_twinflow_lora,
    save_stock_lora,
    save_twinflow_lora,
    save_twinflow_model,
)

__all__ = [
    "TwinFlowRepositoryConfig",
    "load_twinflow_lora",
    "save_stock_lora",
    "save_twinflow_lora",
    "save_twinflow_model",
]
