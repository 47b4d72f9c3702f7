"""Turn a loaded stock transformer into its TwinFlow class in place, and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TypeVar, cast

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import is_compiled_module

from .class_table import TWINFLOW_CLASSES
from .modeling_twinflow import TwinFlowTransformerMixin
from .timestep_embedders import REFUSED

Model = TypeVar("Model", bound=torch.nn.Module)


def twinflow_class_of(transformer: ModelMixin | type[ModelMixin]) -> type[TwinFlowTransformerMixin]:
    """Return the TwinFlow class of a transformer, which takes `timestep_sign` and `target_timestep`.

    Args:
        transformer: a stock or TwinFlow transformer, or its class.

    Raises:
        TypeError: if the class is not supported; the message says why.
    """
    cls = transformer if isinstance(transformer, type) else type(transformer)
    if issubclass(cls, TwinFlowTransformerMixin):
        return TWINFLOW_CLASSES[cls.stock_class().__name__]
    found = TWINFLOW_CLASSES.get(cls.__name__)
    if found is not None and found.stock_class() is cls:
        return found
    reason = REFUSED.get(cls.__name__, "it is not one of the flow-matching classes that docs/models.md lists")
    raise TypeError(f"{cls.__name__} has no timestep_sign support: {reason}.")


def uncompiled(model: Model) -> Model:
    """Return the model without the wrapper of `torch.compile`."""
    return cast(Model, model.get_submodule("_orig_mod")) if is_compiled_module(model) else model


def is_twinflow_transformer(model: torch.nn.Module) -> bool:
    """Whether a model, compiled or not, is a TwinFlow transformer whose time conditioning is on."""
    model = uncompiled(model)
    return isinstance(model, TwinFlowTransformerMixin) and model.twinflow_enabled


@contextmanager
def without_targets(*models: torch.nn.Module) -> Iterator[None]:
    """Call transformers as ordinary flow-matching models inside the block: no target time, and no warning of that."""
    transformers = [
        cast(TwinFlowTransformerMixin, uncompiled(each)) for each in models if is_twinflow_transformer(each)
    ]
    for transformer in transformers:
        transformer.set_target_timestep_source(lambda timestep: None)
    try:
        yield
    finally:
        for transformer in transformers:
            transformer.set_target_timestep_source(None)


def enable_twinflow(
    transformer: ModelMixin, twinflow_class: type[TwinFlowTransformerMixin] | None = None
) -> ModelMixin:
    """Turn a loaded stock transformer into its TwinFlow class in place, and add its time conditioning.

    The output does not change until the conditioning is trained or loaded.

    Args:
        transformer: an instance of a stock class. Its adapters and hooks are kept.
        twinflow_class: the class to turn it into; defaults to `twinflow_class_of(transformer)`.

    Returns:
        The same transformer.

    Raises:
        TypeError: if the class is not supported, if `twinflow_class` is the class of another transformer, or if the
            transformer is compiled.
        ValueError: if weights are on the meta device.

    Examples:
        >>> pipe = DiffusionPipeline.from_pretrained("stabilityai/stable-diffusion-3.5-medium")
        >>> enable_twinflow(pipe.transformer)
    """
    if is_compiled_module(transformer):
        raise TypeError(
            f"The {type(uncompiled(transformer)).__name__} is compiled. Call enable_twinflow before torch.compile."
        )
    expected = twinflow_class_of(transformer)
    twinflow_class = twinflow_class or expected
    if twinflow_class is not expected:
        raise TypeError(
            f"{type(transformer).__name__} has no timestep_sign support through {twinflow_class.__name__}, which is for "
            f"a {twinflow_class.stock_class().__name__}. Leave twinflow_class out."
        )
    if any(parameter.is_meta for parameter in transformer.parameters()):
        raise ValueError(
            f"The {type(transformer).__name__} has weights on the meta device. Call enable_twinflow before sequential "
            "or disk offloading."
        )
    if not isinstance(transformer, TwinFlowTransformerMixin):
        _set_class(transformer, twinflow_class)
    transformer.enable_twinflow()
    return transformer


def disable_twinflow(transformer: torch.nn.Module) -> None:
    """Undo `enable_twinflow`, so that the transformer, compiled or not, is of its stock class again.

    Raises:
        TypeError: if it is not a TwinFlow transformer.
    """
    model = uncompiled(transformer)
    if not isinstance(model, TwinFlowTransformerMixin):
        raise TypeError(f"A {type(model).__name__} is not a TwinFlow transformer, so there is nothing to disable.")
    model.disable_twinflow()
    _set_class(model, type(model).stock_class())


def _set_class(transformer: ModelMixin, cls: type[ModelMixin]) -> None:
    """Change the class in place, also in hooks of accelerate and diffusers that stored the old forward."""
    forward = type(transformer).forward
    transformer.__class__ = cls
    registry = getattr(transformer, "_diffusers_hook", None)
    for holder in (transformer, *(registry._fn_refs if registry else ())):
        for name, value in list(vars(holder).items()):
            if isinstance(value, MethodType) and value.__func__ is forward and value.__self__ is transformer:
                setattr(holder, name, MethodType(cls.forward, transformer))
