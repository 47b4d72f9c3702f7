"""TwinFlow few-step distillation for diffusers.

Importing the package is fast and prints nothing: torch and diffusers are imported when a public name is first used.
"""

from typing import TYPE_CHECKING

from . import models, schedulers  # noqa: F401  (they hold the modules that saved pipelines name)
from .lazy_names import lazy_names

if TYPE_CHECKING:
    from . import cli as cli
    from . import configuration as configuration
    from . import data as data
    from . import evaluation as evaluation
    from . import families as families
    from . import hub as hub
    from . import methods as methods
    from . import pipelines as pipelines
    from . import training as training
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
MODULES = {
    "TwinFlowConfig": ".configuration",
    "TwinFlowConfigError": ".configuration",
    "TwinFlowPipeline": ".pipelines",
    "TwinFlowRepositoryConfig": ".hub",
    "TwinFlowSD3Transformer2DModel": ".models",
    "TwinFlowScheduler": ".schedulers",
    "TwinFlowTransformerMixin": ".models",
    "disable_twinflow": ".models",
    "enable_twinflow": ".models",
    "export": ".pipelines",
    "load_twinflow_lora": ".hub",
    "push_twinflow_lora": ".hub",
    "save_twinflow_lora": ".hub",
    "unload_twinflow_lora": ".hub",
}
"""The module that each public name is imported from."""

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    __getattr__, __dir__ = lazy_names(
        globals(),
        MODULES,
        submodules=(
            "cli",
            "configuration",
            "data",
            "evaluation",
            "families",
            "hub",
            "methods",
            "pipelines",
            "training",
        ),
    )
