"""Families of base models that TwinFlow can train, and functions to find the family of a pipeline."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .base import Family
    from .modular_blocks import blocks_pipeline
    from .registry import FAMILIES, family_of, family_of_pipeline_class
    from .scheduler_kind import is_flow_matching

__all__ = ["FAMILIES", "Family", "blocks_pipeline", "family_of", "family_of_pipeline_class", "is_flow_matching"]

if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    __getattr__, __dir__ = lazy_names(
        globals(),
        {
            "FAMILIES": ".registry",
            "Family": ".base",
            "blocks_pipeline": ".modular_blocks",
            "family_of": ".registry",
            "family_of_pipeline_class": ".registry",
            "is_flow_matching": ".scheduler_kind",
        },
    )
