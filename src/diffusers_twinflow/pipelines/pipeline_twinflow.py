"""Stock pipelines with few-step defaults: the trained step count, guidance 0, the target time of each step."""

import os
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES
from ..families.base import HUB_OPTIONS
from ..hub.base_loading import load_base
from ..hub.files import locate_repository
from ..hub.loaded_pipeline import TwinFlowMethods
from ..hub.loading import load_located_lora
from ..hub.model_loading import load_located_model
from ..hub.pipeline_classes import as_pipeline, as_stock_pipeline, stock_class_of
from ..hub.published_folders import find_published
from ..hub.published_pipeline import load_published_pipeline
from ..hub.repository import LORA, TwinFlowRepositoryConfig
from ..schedulers import TwinFlowScheduler
from .execution_device import QuickExecutionDevice

GUIDANCE_ARGUMENTS = ("guidance_scale", "true_cfg_scale")


class TwinFlowPipeline(TwinFlowMethods, QuickExecutionDevice):
    """A diffusers pipeline that draws in few steps without guidance.

    `from_pretrained` returns an instance of the base's own pipeline class and of this one: everything the stock
    pipeline does it does too, and a call defaults to the step count it was distilled for at guidance 0.

        pipe = TwinFlowPipeline.from_pretrained("someone/their-twinflow-lora", dtype=torch.bfloat16).to("cuda")
        image = pipe("a handwritten seven").images[0]
    """

    twinflow_config: TwinFlowRepositoryConfig

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        base_model: str | None = None,
        merge: bool = True,
        **kwargs: Any,
    ) -> "TwinFlowPipeline":
        """Load a TwinFlow LoRA on its base, or a whole distilled pipeline.

        Args:
            pretrained_model_name_or_path: local directory or Hub repository that holds a `twinflow_config.json`.
            base_model: local directory or Hub repository of the base, where it is not the one that
                `twinflow_config.json` names.
            merge: merge a LoRA into the base's weights, which makes calls as fast as the base's; `False` keeps it
                beside them. A quantized base keeps it beside its weights in any case. `load_lora_weights`,
                `set_adapters` and the other methods that change adapters put it beside the weights again.
            kwargs: as `DiffusionPipeline.from_pretrained` takes them; `revision` and `subfolder` are the TwinFlow
                repository's, the base's revision comes from `twinflow_config.json`. A base's pickle files are loaded only
                where `use_safetensors=False` asks for them, those of a TwinFlow repository never.

        Raises:
            TwinFlowConfigError: where the directory is no TwinFlow repository, or its base cannot be found.
        """
        if "torch_dtype" in kwargs:
            kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
        hub_options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        repository = locate_repository(os.fspath(pretrained_model_name_or_path), **hub_options)
        published = find_published(repository)
        if published is not None:
            pipeline = load_published_pipeline(published, base_model=base_model, **kwargs)
            return as_twinflow_pipeline(pipeline, TwinFlowRepositoryConfig.of_published(published))
        config = TwinFlowRepositoryConfig.load_located(repository)
        family = FAMILIES[config.family]
        if config.train_type == LORA:
            kwargs.setdefault("use_safetensors", True)
            base_options = {k: v for k, v in hub_options.items() if k not in ("revision", "subfolder")}
            if base_model is None:
                base_options["revision"] = config.base_model_revision
            base = base_model or config.locate_base(repository)
            is_local = repository.is_local and (repository.directory / config.base_model).is_dir()
            pipeline = load_base(
                family, base, is_hub_id=base_model is None and not is_local, **(base_options | kwargs)
            )
            load_located_lora(pipeline, repository, merge=merge, is_base_unchanged=family.component_name not in kwargs)
        else:
            pipeline = load_located_model(repository, config, family, **kwargs)
        return as_twinflow_pipeline(pipeline, config.with_base_of(repository))

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "TwinFlowPipeline":
        """Make a `TwinFlowPipeline` from the components of a pipeline with TwinFlow weights, without more memory.

        `TwinFlowPipeline.from_pipe` keeps the stock class of `pipeline`; `type(pipe).from_pipe` has that of `pipe`.

        Args:
            pipeline: a `TwinFlowPipeline`, or a stock pipeline after `load_twinflow_lora`.
            kwargs: as `DiffusionPipeline.from_pipe` takes them.

        Raises:
            TwinFlowConfigError: if the pipeline has no TwinFlow weights.
        """
        config = getattr(pipeline, "twinflow_config", None)
        if config is None:
            raise TwinFlowConfigError(
                f"the {type(pipeline).__name__} has no TwinFlow weights: call load_twinflow_lora on it first, or load "
                "it with TwinFlowPipeline.from_pretrained."
            )
        stock = getattr(cls, "stock_class", None) or stock_class_of(pipeline)
        return as_twinflow_pipeline(stock.from_pipe(pipeline, **kwargs), config)

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The stock pipeline's call, with its own arguments in its own order.

        `num_inference_steps` defaults to the step count of the distillation, and `max_sequence_length` to that of the
        training. Guidance is in the weights already: the stock call's arguments for it (`guidance_scale`, in some
        models `true_cfg_scale`) are left out, or 0, or what the family calls off.

        Raises:
            ValueError: for any other guidance.
        """
        config = self.twinflow_config
        arguments = dict(zip(self._call_defaults, args)) | kwargs
        guidance_off = FAMILIES[config.family].guidance_off
        for name in GUIDANCE_ARGUMENTS:
            value = arguments.pop(name, None)
            if value not in (None, 0, guidance_off.get(name)):
                raise ValueError(
                    f"{name}={value} is not for a TwinFlow model, whose weights hold the guidance already: "
                    f"leave {name} out or pass 0."
                )
        arguments |= guidance_off
        if arguments.get("num_inference_steps") is None:
            arguments["num_inference_steps"] = config.num_inference_steps
        if config.max_sequence_length and "max_sequence_length" in self._call_defaults:
            arguments.setdefault("max_sequence_length", config.max_sequence_length)
        self._check_call(arguments, guidance_off)
        return super().__call__(**arguments)

    def as_stock_pipeline(self) -> DiffusionPipeline:
        """Make this instance, in place, one of the stock class again."""
        return as_stock_pipeline(self)


def as_twinflow_pipeline(pipeline: DiffusionPipeline, config: TwinFlowRepositoryConfig) -> TwinFlowPipeline:
    """Turn a stock pipeline, in place, into a `TwinFlowPipeline`; its scheduler becomes a `TwinFlowScheduler`."""
    ours = as_pipeline(pipeline, TwinFlowPipeline, twinflow_config=config)
    if not isinstance(ours.scheduler, TwinFlowScheduler):
        ours.scheduler = TwinFlowScheduler.from_config(ours.scheduler.config)
    return ours
