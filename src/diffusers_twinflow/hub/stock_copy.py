"""Make a copy of a pipeline that saves itself as a stock diffusers pipeline."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from diffusers import SchedulerMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import is_compiled_module
from torch import nn

from ..models import TwinFlowTransformerMixin
from ..models.adapter_layers import has_adapters
from ..models.merged_copy import merged_copy
from ..models.target_folding import FoldedLayer
from ..models.timestep_embedders import takes_target
from ..schedulers import TwinFlowScheduler, stock_scheduler_name
from .pipeline_classes import stock_class_of


def stock_copy(
    pipeline: DiffusionPipeline,
    folded: Mapping[str, Mapping[str, FoldedLayer]] = MappingProxyType({}),
    *,
    keep_conditioning: bool = True,
    scheduler: SchedulerMixin | None = None,
) -> DiffusionPipeline:
    """Copy a pipeline so that it saves itself with the names of stock classes and with all adapters merged.

    Use the copy only for saving: it shares its components with the pipeline, which does not change.

    Args:
        pipeline: pipeline to copy.
        folded: low-rank weights, by component and layer, that are added to the saved weights of TwinFlow transformers.
        keep_conditioning: save the time conditioning next to the stock weights. Defaults to `True`.
        scheduler: scheduler to save. Defaults to the pipeline's scheduler.
    """
    stock = stock_class_of(pipeline)
    copied = stock.__new__(stock)
    vars(copied).update(vars(pipeline))
    for name, component in pipeline.components.items():
        model = component._orig_mod if is_compiled_module(component) else component
        if isinstance(model, TwinFlowTransformerMixin):
            copied.register_to_config(**{name: ("diffusers", model.stock_class().__name__)})
            if not keep_conditioning:
                vars(copied)[name] = model.stock_copy(folded.get(name, {}))
            elif folded.get(name):
                vars(copied)[name] = model.with_folded(folded[name])
        elif isinstance(model, nn.Module) and has_adapters(model):
            vars(copied)[name] = merged_copy(model)
    scheduler = scheduler or scheduler_of(pipeline)
    is_ours = isinstance(scheduler, TwinFlowScheduler)
    vars(copied)["scheduler"] = scheduler
    name = stock_scheduler_name(scheduler) if is_ours else type(scheduler).__name__
    copied.register_to_config(scheduler=("diffusers", name))
    return copied


def scheduler_of(pipeline: DiffusionPipeline) -> TwinFlowScheduler:
    """Return the pipeline's `TwinFlowScheduler`, or a new one with the options of its scheduler.

    If the pipeline's model takes a target time itself, the new one jumps to the next time of its grid, because that is
    the target that stock pipelines pass.
    """
    if isinstance(pipeline.scheduler, TwinFlowScheduler):
        return pipeline.scheduler
    models = [each for each in pipeline.components.values() if isinstance(each, nn.Module)]
    style: dict[str, Any] = {"sampling_style": "any"} if any(map(takes_target, models)) else {}
    return TwinFlowScheduler.from_config(pipeline.scheduler.config, **style)
