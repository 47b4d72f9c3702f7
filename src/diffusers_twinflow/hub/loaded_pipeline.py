"""What a pipeline with TwinFlow weights does differently from a stock one."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging

from ..families import family_of
from .adapter_states import is_active, is_fused
from .merging import merged_lora_of, unmerge_lora
from .repository import TwinFlowRepositoryConfig, save_twinflow_model
from .unloading import STATE_NAME, LoadedLora, restore_pipeline, unload_twinflow_lora

logger = logging.get_logger(__name__)

FAR = 4
MOST_STEPS = 8
SAVE_OPTIONS = tuple(signature(DiffusionPipeline.save_pretrained).parameters)[2:]


if TYPE_CHECKING:

    class StockPipeline(DiffusionPipeline, LoraBaseMixin):
        """What the methods are mixed into, for type checkers."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

else:
    StockPipeline = object


class TwinFlowMethods(StockPipeline):
    """Methods of a pipeline with TwinFlow weights.

    It saves itself as a whole model that stock diffusers loads too, the usual ways of unloading a LoRA unload the time
    conditioning and the scheduler with it, and calls that damage the images are warned of, once.
    """

    stock_class: type[DiffusionPipeline]
    twinflow_config: TwinFlowRepositoryConfig | None = None
    _call_defaults: Mapping[str, Any]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save a whole model: `TwinFlowPipeline.from_pretrained` and stock diffusers load it, without the base.

        Adapters are merged into the saved weights; the pipeline stays as it is. Takes the arguments of
        [`~diffusers.DiffusionPipeline.save_pretrained`].
        """
        if self.twinflow_config is None:
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        options = dict(zip(SAVE_OPTIONS, args)) | kwargs
        save_twinflow_model(Path(save_directory), self, self.twinflow_config, **options)

    if not TYPE_CHECKING:  # who inspects the method sees the stock signature
        save_pretrained = wraps(DiffusionPipeline.save_pretrained, assigned=())(save_pretrained)

    def unload_lora_weights(self, **options: Any) -> None:
        """Unload all LoRAs. The time conditioning and the scheduler of a TwinFlow LoRA go with it.

        A LoRA that `fuse_lora` fused stays in the weights, as in stock diffusers, and keeps its time conditioning and
        scheduler. One that was merged when it was loaded is taken out of them, as `unload_twinflow_lora` does it.
        """
        unmerge_lora(self)
        state = self._loaded_lora
        fused = state is not None and is_fused(self._denoiser, state.adapter_name)
        if hasattr(self.stock_class, "unload_lora_weights"):
            super().unload_lora_weights(**options)
        else:
            self._denoiser.unload_lora()
        if state is not None and fused:
            setattr(self, STATE_NAME, replace(state, is_baked=True))
        elif state is not None and not state.is_baked:
            restore_pipeline(self)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Delete adapters. The time conditioning and the scheduler of a TwinFlow LoRA go with it."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        state = self._loaded_lora
        if state is None or state.is_baked or state.adapter_name not in names:
            super().delete_adapters(names)
            return
        unload_twinflow_lora(self)
        others = [name for name in names if name != state.adapter_name]
        if others:
            self.delete_adapters(others)

    @property
    def _loaded_lora(self) -> LoadedLora | None:
        return vars(self).get(STATE_NAME)

    @property
    def _denoiser(self) -> ModelMixin:
        return family_of(self).denoiser(self)

    def _check_call(self, arguments: Mapping[str, Any], guidance_off: Mapping[str, float]) -> None:
        """Warn, once for each reason, of a call that damages the images.

        Args:
            arguments: of the call, without those left at their defaults.
            guidance_off: the arguments that switch guidance off, with their values.
        """
        state = self._loaded_lora
        if state is not None and not state.is_baked and not self._is_on(state.adapter_name):
            self._warn_once(
                "adapter",
                f"The TwinFlow adapter '{state.adapter_name}' is not active, but its time conditioning and its scheduler "
                "still are, so this draws neither what the base nor what the LoRA draws. Call "
                "`unload_twinflow_lora(pipe)` for the base, or activate the adapter again.",
            )
            return
        config = self.twinflow_config
        if config is None:
            return
        steps = _step_count({**self._call_defaults, **arguments})
        guidance = {
            name: value
            for name, off in guidance_off.items()
            if name in self._call_defaults and _guides(value := arguments.get(name, self._call_defaults[name]), off)
        }
        trained = config.num_inference_steps
        is_far = steps is not None and (steps > max(MOST_STEPS, FAR * trained) or FAR * steps < trained)
        if is_far or guidance:
            call = ", ".join(
                f"{name}={value}" for name, value in {"num_inference_steps": trained, **guidance_off}.items()
            )
            given = "".join(f" and {name}={value}" for name, value in guidance.items())
            self._warn_once(
                "call",
                f"These TwinFlow weights were distilled for {trained} steps without guidance, and this call takes "
                f"{steps} steps{given}, which damages the images. Call the pipeline with {call}.",
            )

    def _is_on(self, adapter_name: str) -> bool:
        return merged_lora_of(self._denoiser) is not None or is_active(self._denoiser, adapter_name)

    def _warn_once(self, reason: str, text: str) -> None:
        warned = vars(self).setdefault("_twinflow_warnings", set())
        if reason not in warned:
            warned.add(reason)
            logger.warning(text)


class LoraPipeline(TwinFlowMethods):
    """A stock pipeline with a TwinFlow LoRA on it: its calls are the stock ones, with warnings."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The stock call."""
        if self.twinflow_config is not None:
            self._check_call(dict(zip(self._call_defaults, args)) | kwargs, family_of(self).guidance_off)
        return super().__call__(*args, **kwargs)


def _step_count(arguments: Mapping[str, Any]) -> int | None:
    for name in ("sigmas", "timesteps"):
        if arguments.get(name) is not None:
            return len(arguments[name])
    return arguments.get("num_inference_steps")


def _guides(value: float | None, off: float) -> bool:
    """Whether a guidance argument changes what the model computes, if `off` switches it off."""
    return value is not None and value != off and not (off == 0 and 0 <= value <= 1)
