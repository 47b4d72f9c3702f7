"""Create the TwinFlow class of a stock class."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin

from .modeling_twinflow import TARGET_AND_SIGN, TwinFlowTransformerMixin
from .time_conditioning import TimeConditioning
from .timestep_embedders import TimestepEmbedders


class EqualToStock(type):
    """Metaclass that makes a TwinFlow class equal to its stock class, but only for diffusers' pipelines.

    `DiffusionPipeline.from_pipe` keeps a model only if `model_class in signature_classes`, which excludes subclasses.
    All other callers get the usual answer. Otherwise torch.compile, which finds the next class of a `super()` call with
    `==`, would call the same method forever.
    """

    def __eq__(cls, other: object) -> bool:
        if cls is other or other is not vars(cls).get("_stock_class"):
            return cls is other
        return sys._getframe(1).f_globals.get("__name__", "").startswith("diffusers.pipelines.")

    __hash__ = type.__hash__


def make_twinflow_class(stock: type[ModelMixin], rule: TimestepEmbedders, module: str) -> type:
    """Create the subclass of a stock class that takes `timestep_sign` and `target_timestep`.

    Args:
        stock: a diffusers model class.
        rule: how the class embeds its timestep.
        module: name of the module from which the new class can be imported.
    """

    def __init__(
        self: Any,
        *args: Any,
        twinflow_enabled: bool = False,
        twinflow_conditioning: str = TARGET_AND_SIGN,
        **kwargs: Any,
    ) -> None:
        stock.__init__(self, *args, **kwargs)
        if twinflow_enabled:
            self.enable_twinflow(twinflow_conditioning)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return TwinFlowTransformerMixin.forward(self, *args, **kwargs)

    vars(__init__)["__signature__"] = _with_keywords(
        stock.__init__, twinflow_enabled=False, twinflow_conditioning=TARGET_AND_SIGN
    )
    vars(forward)["__signature__"] = _with_keywords(stock.forward, timestep_sign=None, target_timestep=None)
    forward.__doc__ = TwinFlowTransformerMixin.forward.__doc__
    unsplit = stock._no_split_modules
    namespace = {
        "__doc__": f"[`~diffusers.{stock.__name__}`] with a sign and a target timestep; `{rule.argument}` is "
        f"{rule.at_noise:g} at noise and {rule.at_data:g} at data.",
        "__init__": __init__,
        "__module__": module,
        "forward": forward,
        "_timestep_embedders": rule,
        "_stock_class": stock,
        "_forward_parameters": tuple(inspect.signature(stock.forward).parameters)[1:],
        "_no_split_modules": unsplit and [*unsplit, TimeConditioning.__name__],
        "_skip_layerwise_casting_patterns": [*(stock._skip_layerwise_casting_patterns or ()), "time_conditioning"],
    }
    adapters = () if issubclass(stock, PeftAdapterMixin) else (PeftAdapterMixin,)
    return EqualToStock(f"TwinFlow{stock.__name__}", (TwinFlowTransformerMixin, stock, *adapters), namespace)


def _with_keywords(function: Callable, **defaults: Any) -> inspect.Signature:
    """Return the signature of a function with more keywords. Modular pipelines filter arguments by it."""
    signature = inspect.signature(function)
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
        if name not in signature.parameters
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *keywords])
