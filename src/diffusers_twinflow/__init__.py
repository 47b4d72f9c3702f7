"""TwinFlow few-step distillation for diffusers.

Importing the package is fast and prints nothing: torch and diffusers are imported when a public name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration import TwinFlowConfig, TwinFlowConfigError
    from .hub import (
        TwinFlowRepositoryConfig,
        load_twinflow_lora,
        push_twinflow_lora,
        save_twinflow_lora,
        unload_twinflow_lora,
    )
    from .models import TwinFlowSD3Transformer2DModel, TwinFlowTransformerMixin, disable_twinflow, enable_twinflow
    from .pipelines import TwinFlowPipeline, export
    from .schedulers import TwinFlowScheduler

__version__ = "0.1.0"

MODULES = {
    "TwinFlowConfig": "configuration",
    "TwinFlowConfigError": "configuration",
    "TwinFlowPipeline": "pipelines",
    "TwinFlowRepositoryConfig": "hub",
    "TwinFlowSD3Transformer2DModel": "models",
    "TwinFlowScheduler": "schedulers",
    "TwinFlowTransformerMixin": "models",
    "disable_twinflow": "models",
    "enable_twinflow": "models",
    "export": "pipelines",
    "load_twinflow_lora": "hub",
    "push_twinflow_lora": "hub",
    "save_twinflow_lora": "hub",
    "unload_twinflow_lora": "hub",
}
"""The module that each public name is imported from."""
SUBPACKAGES = {*MODULES.values(), "cli", "data", "families", "training"}

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
    "export",
    "load_twinflow_lora",
    "push_twinflow_lora",
    "save_twinflow_lora",
    "unload_twinflow_lora",
]


def __getattr__(name: str) -> Any:
    if name in SUBPACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *SUBPACKAGES})
