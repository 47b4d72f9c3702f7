"""Change the class of a stock pipeline object in place, and change it back."""

from functools import cache, wraps
from inspect import signature
from typing import Any, TypeVar, cast

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..sampling_calls import only_own_calls
from .adapter_methods import adapter_methods

Mixed = TypeVar("Mixed")


def stock_class_of(pipeline: DiffusionPipeline) -> type[DiffusionPipeline]:
    """Return the diffusers class of a pipeline, which may be an instance of one of our subclasses."""
    return getattr(type(pipeline), "stock_class", type(pipeline))


@cache
def pipeline_class(mixin: Any, stock: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    """Build the subclass of a stock pipeline class that has the methods of `mixin`.

    It has the name of the stock class, because `AutoPipeline` and saved pipelines find the stock class by this name.
    Its `__call__` has the stock signature and ends the sampling call even after an error or an interrupt.
    """

    @wraps(stock.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        with only_own_calls():
            return mixin.__call__(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: int) -> tuple[Any, ...]:
        return _new_instance, (mixin, stock), vars(self)

    parameters = list(signature(stock.__call__).parameters.values())[1:]
    namespace = {
        **adapter_methods(stock),
        "__call__": __call__,
        "__doc__": mixin.__doc__,
        "__module__": mixin.__module__,
        "__qualname__": f"{mixin.__name__}[{stock.__name__}]",
        "__reduce_ex__": __reduce_ex__,
        "stock_class": stock,
        "_call_defaults": {parameter.name: parameter.default for parameter in parameters},
    }
    return type(stock.__name__, (mixin, stock), namespace)


def as_pipeline(pipeline: DiffusionPipeline, mixin: type[Mixed], **attributes: Any) -> Mixed:
    """Add the methods of `mixin` to a stock pipeline in place, and set `attributes` on it."""
    pipeline.__class__ = pipeline_class(mixin, stock_class_of(pipeline))  # type: ignore[arg-type]  # mypy: unhashable
    vars(pipeline).update(attributes)
    return cast(Mixed, pipeline)


def as_stock_pipeline(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Change a pipeline back to its stock class in place."""
    pipeline.__class__ = stock_class_of(pipeline)
    for name in [name for name in vars(pipeline) if name.lstrip("_").startswith("twinflow_")]:
        delattr(pipeline, name)
    return pipeline


def _new_instance(mixin: type, stock: type[DiffusionPipeline]) -> DiffusionPipeline:
    cls = pipeline_class(mixin, stock)  # type: ignore[arg-type]  # mypy: unhashable
    return cls.__new__(cls)
