from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazy_names(
    globals(),
    {
        "TwinFlowRepositoryConfig": ".repository",
        "convert_published_transformer": ".published",
        "ignored_options": "..integrations.simpletuner.recipes",
        "load_published_transformer": ".published",
        "load_twinflow_lora": ".loading",
        "push_twinflow_lora": ".push",
        "push_twinflow_model": ".push",
        "save_model_card": ".model_card",
        "save_samples": ".samples",
        "save_stock_lora": ".repository",
        "save_twinflow_lora": ".repository",
        "save_twinflow_model": ".repository",
        "translate_recipe": "..integrations.simpletuner.recipes",
        "unload_twinflow_lora": ".unloading",
        "whole_repo_id": ".push",
    },
)
