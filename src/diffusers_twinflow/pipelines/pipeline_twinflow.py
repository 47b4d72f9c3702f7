"""Stock pipelines with few-step defaults: the trained step count and guidance 0."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES
from ..families.guiders import turn_guiders_off
from ..hub.base_loading import load_base_of
from ..hub.base_loras import merge_base_loras, parse_base_loras
from ..hub.files import locate_repository
from ..hub.loaded_pipeline import TwinFlowMethods
from ..hub.loading import load_located_lora
from ..hub.model_loading import load_located_model
from ..hub.pipeline_classes import as_pipeline, as_stock_pipeline, stock_class_of
from ..hub.published_folders import find_published
from ..hub.published_pipeline import load_published_pipeline
from ..hub.repository import LORA, TwinFlowRepositoryConfig
from ..hub.stock_copy import scheduler_of
from ..hub.stock_pipelines import HUB_OPTIONS
from .execution_device import QuickExecutionDevice

GUIDANCE_ARGUMENTS = ("guidance_scale", "true_cfg_scale")


class TwinFlowPipeline(TwinFlowMethods, QuickExecutionDevice):
    """A diffusers pipeline that generates images in few steps without guidance.

    `from_pretrained` returns an instance of this class and of the base's pipeline class, so it can do everything that
    the stock pipeline can. A call defaults to the step count of the distillation and to guidance 0.

    Examples:
        >>> pipe = TwinFlowPipeline.from_pretrained("someone/their-twinflow-lora", dtype=torch.bfloat16).to("cuda")
        >>> image = pipe("a handwritten seven").images[0]
    """

    twinflow_config: TwinFlowRepositoryConfig

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        base_model: str | None = None,
        base_loras: Sequence[str] | None = None,
        merge: bool = True,
        **kwargs: Any,
    ) -> "TwinFlowPipeline":
        """Load a TwinFlow LoRA on its base, or a whole distilled pipeline.

        Args:
            pretrained_model_name_or_path: local directory or Hub repository with a `twinflow_config.json`, or a
                transformer that the TwinFlow authors or SimpleTuner published.
            base_model: local directory or Hub repository of the base; defaults to the base in `twinflow_config.json`.
            base_loras: LoRAs to merge into the base, such as "me/style:0.8"; defaults to those in `twinflow_config.json`.
                Pass an empty list if the base contains them already.
            merge: whether to merge a LoRA into the base's weights, which makes calls as fast as the base's. It is never
                merged into a quantized base. `load_lora_weights`, `set_adapters` and the other methods that change
                adapters unmerge it.
            kwargs: arguments of `DiffusionPipeline.from_pretrained`. `revision` and `subfolder` apply to the TwinFlow
                repository. The base's revision comes from `twinflow_config.json`. Pickle files of a base are loaded
                only with `use_safetensors=False`, and pickle files of a TwinFlow repository are never loaded.

        Returns:
            The pipeline.

        Raises:
            TwinFlowConfigError: if the directory is not a TwinFlow repository, or if its base cannot be found.
        """
        if "torch_dtype" in kwargs:
            kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
        if isinstance(kwargs.get("dtype"), str):  # diffusers would load float32
            raise TwinFlowConfigError(
                f"dtype={kwargs['dtype']!r} is a string: pass a torch.dtype, such as torch.bfloat16."
            )
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
            pipeline = load_base_of(config, repository, base_model, **(base_options | kwargs))
            loras = config.locate_base_loras(repository) if base_loras is None else parse_base_loras(base_loras)
            merge_base_loras(pipeline, loras, **base_options)
            is_unchanged = kwargs.keys().isdisjoint(family.denoiser_names) and not loras
            load_located_lora(pipeline, repository, merge=merge, is_base_unchanged=is_unchanged, base_loras=loras)
        else:
            pipeline = load_located_model(repository, config, family, **kwargs)
        return as_twinflow_pipeline(pipeline, config.with_base_of(repository))

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "TwinFlowPipeline":
        """Create a `TwinFlowPipeline` from the components of another pipeline, which uses no more memory.

        `TwinFlowPipeline.from_pipe` keeps the stock class of `pipeline`. `type(pipe).from_pipe` uses the stock class
        of `pipe`.

        Args:
            pipeline: a `TwinFlowPipeline`, or a stock pipeline after `load_twinflow_lora`.
            kwargs: arguments of `DiffusionPipeline.from_pipe`.

        Raises:
            TwinFlowConfigError: if the pipeline has no TwinFlow weights.
        """
        config = getattr(pipeline, "twinflow_config", None)
        if config is None:
            raise TwinFlowConfigError(
                f"The {type(pipeline).__name__} has no TwinFlow weights. Call load_twinflow_lora on it first, or load "
                "it with TwinFlowPipeline.from_pretrained."
            )
        stock = getattr(cls, "stock_class", None) or stock_class_of(pipeline)
        return as_twinflow_pipeline(stock.from_pipe(pipeline, **kwargs), config)

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the stock pipeline, which takes the same arguments in the same order.

        `num_inference_steps` defaults to the step count of the distillation, and `max_sequence_length` to its value in
        training. Guidance is built into the weights, so leave `guidance_scale` and `true_cfg_scale` out or pass 0.

        Returns:
            The output of the stock pipeline.

        Raises:
            ValueError: if a guidance argument has a value that turns guidance on.
        """
        config = self.twinflow_config
        arguments = dict(zip(self._call_defaults, args)) | kwargs
        guidance_off = FAMILIES[config.family].guidance_off
        for name in GUIDANCE_ARGUMENTS:
            value = arguments.pop(name, None)
            if value not in (None, 0, guidance_off.get(name)):
                raise ValueError(
                    f"{name}={value} is not valid for a TwinFlow model, because guidance is built into its weights: "
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
        """Turn this instance in place into one of the stock class again."""
        return as_stock_pipeline(self)


def as_twinflow_pipeline(pipeline: DiffusionPipeline, config: TwinFlowRepositoryConfig) -> TwinFlowPipeline:
    """Turn a stock pipeline in place into a `TwinFlowPipeline` with a `TwinFlowScheduler`, and turn its guiders off."""
    ours = as_pipeline(pipeline, TwinFlowPipeline, twinflow_config=config)
    ours.scheduler = scheduler_of(ours)
    turn_guiders_off(ours)
    return ours
