"""A pipeline as stock diffusers would have it, for saving."""

from collections.abc import Mapping
from types import MappingProxyType

from diffusers import SchedulerMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import is_compiled_module
from torch import nn

from ..models import TwinFlowTransformerMixin
from ..models.adapter_layers import has_adapters
from ..models.merged_copy import merged_copy
from ..models.target_folding import FoldedLayer
from ..schedulers import TwinFlowScheduler, stock_scheduler_name
from .pipeline_classes import stock_class_of


def stock_copy(
    pipeline: DiffusionPipeline,
    folded: Mapping[str, FoldedLayer] = MappingProxyType({}),
    *,
    keep_conditioning: bool = True,
    scheduler: SchedulerMixin | None = None,
) -> DiffusionPipeline:
    """A copy of a pipeline that saves itself under the names of stock classes, with all adapters merged.

    It shares its components with the pipeline, which stays as it is. A TwinFlow transformer's own `save_pretrained`
    writes stock weights. The copy is for saving only.

    Args:
        folded: low-rank weights that the saved weights of the TwinFlow transformer also hold, by layer.
        keep_conditioning: whether the time conditioning is saved beside the stock weights.
        scheduler: saved in place of the pipeline's.
    """
    stock = stock_class_of(pipeline)
    copied = stock.__new__(stock)
    vars(copied).update(vars(pipeline))
    for name, component in pipeline.components.items():
        model = component._orig_mod if is_compiled_module(component) else component
        if isinstance(model, TwinFlowTransformerMixin):
            copied.register_to_config(**{name: ("diffusers", model.stock_class().__name__)})
            if not keep_conditioning:
                vars(copied)[name] = model.stock_copy(folded)
            elif folded:
                vars(copied)[name] = model.with_folded(folded)
        elif isinstance(model, nn.Module) and has_adapters(model):
            vars(copied)[name] = merged_copy(model)
    scheduler = scheduler or scheduler_of(pipeline)
    is_ours = isinstance(scheduler, TwinFlowScheduler)
    vars(copied)["scheduler"] = scheduler
    name = stock_scheduler_name(scheduler) if is_ours else type(scheduler).__name__
    copied.register_to_config(scheduler=("diffusers", name))
    return copied


def scheduler_of(pipeline: DiffusionPipeline) -> TwinFlowScheduler:
    """The `TwinFlowScheduler` of a pipeline, or one with the options of its scheduler."""
    if isinstance(pipeline.scheduler, TwinFlowScheduler):
        return pipeline.scheduler
    return TwinFlowScheduler.from_config(pipeline.scheduler.config)
