import importlib
import warnings
from typing import TYPE_CHECKING, Any

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .base_loras import BaseLora, merge_base_loras
    from .loading import load_twinflow_lora
    from .model_card import save_model_card
    from .published import convert_published_transformer, load_published_transformer
    from .push import push_twinflow_lora, push_twinflow_model
    from .repository import TwinFlowRepositoryConfig
    from .sample_images import save_samples
    from .saving import save_stock_lora, save_twinflow_lora, save_twinflow_model
    from .unloading import unload_twinflow_lora
    from .write_access import whole_repo_id

__all__ = [
    "BaseLora",
    "TwinFlowRepositoryConfig",
    "convert_published_transformer",
    "load_published_transformer",
    "load_twinflow_lora",
    "merge_base_loras",
    "push_twinflow_lora",
    "push_twinflow_model",
    "save_model_card",
    "save_samples",
    "save_stock_lora",
    "save_twinflow_lora",
    "save_twinflow_model",
    "unload_twinflow_lora",
    "whole_repo_id",
]

MOVED = ("ignored_options", "translate_recipe")
"""Names that moved to `diffusers_twinflow.integrations.simpletuner`. Importing them from here ends in version 0.3."""

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    _getattr, __dir__ = lazy_names(
        globals(),
        {
            "BaseLora": ".base_loras",
            "TwinFlowRepositoryConfig": ".repository",
            "convert_published_transformer": ".published",
            "load_published_transformer": ".published",
            "load_twinflow_lora": ".loading",
            "merge_base_loras": ".base_loras",
            "push_twinflow_lora": ".push",
            "push_twinflow_model": ".push",
            "save_model_card": ".model_card",
            "save_samples": ".sample_images",
            "save_stock_lora": ".saving",
            "save_twinflow_lora": ".saving",
            "save_twinflow_model": ".saving",
            "unload_twinflow_lora": ".unloading",
            "whole_repo_id": ".write_access",
        },
    )

    def __getattr__(name: str) -> Any:
        if name not in MOVED:
            return _getattr(name)
        new_home = "diffusers_twinflow.integrations.simpletuner"
        warnings.warn(f"{name} moved: import it from {new_home}.", FutureWarning, stacklevel=2)
        return getattr(importlib.import_module(new_home), name)
