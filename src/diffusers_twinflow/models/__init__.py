"""Stock transformers with a target time and a sign.

Every TwinFlow class is an attribute of this module, such as `TwinFlowSD3Transformer2DModel`. It is created when it is
first used.
"""

from typing import TYPE_CHECKING, Any

from ..lazy_names import lazy_names
from . import transformers  # noqa: F401  (diffusers looks for it among the loaded modules)

if TYPE_CHECKING:
    from .class_table import TWINFLOW_CLASSES
    from .enabling import (
        disable_twinflow,
        enable_twinflow,
        is_twinflow_transformer,
        twinflow_class_of,
        uncompiled,
        without_targets,
    )
    from .merged_lora import MergedLora
    from .modeling_twinflow import TwinFlowTransformerMixin
    from .second_embedder import SecondEmbedder
    from .time_conditioning import TimeConditioning

__all__ = [
    "TWINFLOW_CLASSES",
    "MergedLora",
    "SecondEmbedder",
    "TimeConditioning",
    "TwinFlowTransformerMixin",
    "disable_twinflow",
    "enable_twinflow",
    "is_twinflow_transformer",
    "twinflow_class_of",
    "uncompiled",
    "without_targets",
]
MODULES = {
    "TWINFLOW_CLASSES": ".class_table",
    "MergedLora": ".merged_lora",
    "SecondEmbedder": ".second_embedder",
    "TimeConditioning": ".time_conditioning",
    "TwinFlowTransformerMixin": ".modeling_twinflow",
    "disable_twinflow": ".enabling",
    "enable_twinflow": ".enabling",
    "is_twinflow_transformer": ".enabling",
    "twinflow_class_of": ".enabling",
    "uncompiled": ".enabling",
    "without_targets": ".enabling",
}
_get_name, _own_names = lazy_names(globals(), MODULES)


def __getattr__(name: str) -> Any:
    if name.startswith("TwinFlow") and name not in MODULES:
        from . import class_table

        return getattr(class_table, name)
    return _get_name(name)


def __dir__() -> list[str]:
    from .class_table import twinflow_class_names

    return sorted({*_own_names(), *twinflow_class_names()})
