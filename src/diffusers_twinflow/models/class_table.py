"""The TwinFlow class of each supported stock class, created when it is first used."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import diffusers

from ..installed_diffusers import absence, absent_from_diffusers
from .timestep_embedders import TIMESTEP_EMBEDDERS

if TYPE_CHECKING:
    from .modeling_twinflow import TwinFlowTransformerMixin

PREFIX = "TwinFlow"


class TwinFlowClasses(Mapping[str, "type[TwinFlowTransformerMixin]"]):
    """Maps the name of a stock class to its TwinFlow class. Classes that the installed diffusers lacks are left out."""

    def __init__(self) -> None:
        self._classes: dict[str, type[TwinFlowTransformerMixin]] = {}

    def __getitem__(self, stock_name: str) -> "type[TwinFlowTransformerMixin]":
        if stock_name not in self._classes:
            if stock_name not in self:
                raise KeyError(stock_name)
            from .class_factory import make_twinflow_class

            stock, rule = getattr(diffusers, stock_name), TIMESTEP_EMBEDDERS[stock_name]
            twinflow_class = make_twinflow_class(stock, rule, f"{__package__}.transformers")
            self._classes.setdefault(stock_name, twinflow_class)  # another thread may have created it meanwhile
        return self._classes[stock_name]

    def __contains__(self, stock_name: object) -> bool:
        return stock_name in TIMESTEP_EMBEDDERS and not absent_from_diffusers([stock_name])

    def __iter__(self) -> Iterator[str]:
        absent = absent_from_diffusers(TIMESTEP_EMBEDDERS)
        return (stock_name for stock_name in TIMESTEP_EMBEDDERS if stock_name not in absent)

    def __len__(self) -> int:
        return sum(1 for _ in self)


TWINFLOW_CLASSES = TwinFlowClasses()


def twinflow_class_names() -> list[str]:
    """Return the names of the TwinFlow classes whose stock class is in the installed diffusers."""
    return [f"{PREFIX}{stock_name}" for stock_name in TWINFLOW_CLASSES]


def __getattr__(name: str) -> "type[TwinFlowTransformerMixin]":
    stock_name = name.removeprefix(PREFIX)
    if stock_name == name or stock_name not in TIMESTEP_EMBEDDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if stock_name not in TWINFLOW_CLASSES:
        raise ImportError(f"{name} extends {stock_name}: {absence(stock_name)}")
    return TWINFLOW_CLASSES[stock_name]
