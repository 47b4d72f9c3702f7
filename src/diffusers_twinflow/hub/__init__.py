from ..integrations.simpletuner.recipes import ignored_options, translate_recipe
from .loading import load_twinflow_lora
from .model_card import save_model_card
from .published import convert_published_transformer, load_published_transformer
from .push import push_twinflow_lora, push_twinflow_model, whole_repo_id
from .repository import TwinFlowRepositoryConfig, save_stock_lora, save_twinflow_lora, save_twinflow_model
from .samples import save_samples
from .unloading import unload_twinflow_lora

__all__ = [
    "TwinFlowRepositoryConfig",
    "convert_published_transformer",
    "ignored_options",
    "load_published_transformer",
    "load_twinflow_lora",
    "push_twinflow_lora",
    "push_twinflow_model",
    "save_model_card",
    "save_samples",
    "save_stock_lora",
    "save_twinflow_lora",
    "save_twinflow_model",
    "translate_recipe",
    "unload_twinflow_lora",
    "whole_repo_id",
]
