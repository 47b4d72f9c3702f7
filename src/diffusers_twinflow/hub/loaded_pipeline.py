"""Pipeline methods that differ from the stock ones when a pipeline has TwinFlow weights."""

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
from .repository import TwinFlowRepositoryConfig
from .saving import save_twinflow_model
from .unloading import STATE_NAME, LoadedLora, restore_pipeline, unload_twinflow_lora

logger = logging.get_logger(__name__)

FAR = 4
MOST_STEPS = 8
NEGATIVE = "negative_prompt"
"""Start of the names of arguments that only guidance uses."""
SAVE_OPTIONS = tuple(signature(DiffusionPipeline.save_pretrained).parameters)[2:]


if TYPE_CHECKING:

    class StockPipeline(DiffusionPipeline, LoraBaseMixin):
        """The class that the methods are mixed into, for type checkers."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

        def load_lora_weights(  # type: ignore[override]
            self,
            pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | dict[str, Any],
            adapter_name: str | None = None,
            **kwargs: Any,
        ) -> None: ...

else:
    StockPipeline = object


class TwinFlowMethods(StockPipeline):
    """Methods of a pipeline with TwinFlow weights.

    - `save_pretrained` saves a whole model that stock diffusers can load.
    - Unloading the LoRA also removes its time conditioning and its scheduler.
    - Calls whose arguments damage the images log a warning, once per reason.
    """

    stock_class: type[DiffusionPipeline]
    twinflow_config: TwinFlowRepositoryConfig | None = None
    _call_defaults: Mapping[str, Any]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save a whole model that `TwinFlowPipeline.from_pretrained` and stock diffusers load without the base.

        Adapters are merged into the saved weights. The pipeline itself does not change. The arguments are those of
        [`~diffusers.DiffusionPipeline.save_pretrained`].
        """
        if self.twinflow_config is None:
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        options = dict(zip(SAVE_OPTIONS, args)) | kwargs
        save_twinflow_model(Path(save_directory), self, self.twinflow_config, **options)

    if not TYPE_CHECKING:  # `inspect.signature` shows the stock signature
        save_pretrained = wraps(DiffusionPipeline.save_pretrained, assigned=())(save_pretrained)

    def unload_lora_weights(self, **options: Any) -> None:
        """Unload all LoRAs, and the time conditioning and the scheduler of a TwinFlow LoRA.

        A LoRA that was fused with `fuse_lora` stays in the weights, as in stock diffusers, and keeps its time
        conditioning and scheduler. A LoRA that was loaded with `merge=True` is removed from the weights, as with
        `unload_twinflow_lora`.
        """
        unmerge_lora(self)
        state = self._loaded_lora
        denoisers = self._denoisers
        fused = state is not None and any(is_fused(each, state.adapter_name) for each in denoisers)
        if hasattr(self.stock_class, "unload_lora_weights"):
            super().unload_lora_weights(**options)
        else:
            for denoiser in denoisers:
                denoiser.unload_lora()
        if state is not None and fused:
            setattr(self, STATE_NAME, replace(state, is_baked=True))
        elif state is not None and not state.is_baked:
            restore_pipeline(self)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Delete adapters. For a TwinFlow LoRA, its time conditioning and its scheduler are removed too."""
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
    def _denoisers(self) -> list[ModelMixin]:
        return list(family_of(self).denoisers(self).values())

    def _check_call(self, arguments: Mapping[str, Any], guidance_off: Mapping[str, float]) -> None:
        """Warn if the arguments of a call damage the images, once per reason.

        Args:
            arguments: arguments of the call, without arguments that have their default value.
            guidance_off: arguments that turn guidance off, with their values.
        """
        state = self._loaded_lora
        if state is not None and not state.is_baked and not self._is_on(state.adapter_name):
            self._warn_once(
                "adapter",
                f"The TwinFlow adapter '{state.adapter_name}' is not active, but its time conditioning and its scheduler "
                "still are, so the images match neither the base nor the LoRA. To use the base, call "
                "`unload_twinflow_lora(pipe)`. To use the LoRA, activate the adapter again.",
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
            right = {"num_inference_steps": trained, **(guidance_off if guidance else {})}
            call = ", ".join(f"{name}={value}" for name, value in right.items())
            given = "".join(f" and {name}={value}" for name, value in guidance.items())
            self._warn_once(
                "call",
                f"These TwinFlow weights were distilled for {_steps(trained)} without guidance, and this call takes "
                f"{_steps(steps)}{given}, which damages the images. Pass {call}.",
            )
        negative = [name for name, value in arguments.items() if name.startswith(NEGATIVE) and _is_given(value)]
        if negative and not guidance:
            self._warn_once(
                "negative",
                f"{negative[0]} has no effect, because guidance is built into the TwinFlow weights and turned off in the "
                "call. Describe what you want in the prompt instead.",
            )

    def _is_on(self, adapter_name: str) -> bool:
        return all(merged_lora_of(each) is not None or is_active(each, adapter_name) for each in self._denoisers)

    def _warn_once(self, reason: str, text: str) -> None:
        warned = vars(self).setdefault("_twinflow_warnings", set())
        if reason not in warned:
            warned.add(reason)
            logger.warning(text)


class LoraPipeline(TwinFlowMethods):
    """A stock pipeline with a TwinFlow LoRA. Calls work like stock calls and warn about arguments that do not fit."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the stock pipeline, and warn about arguments that damage the images."""
        if self.twinflow_config is not None:
            self._check_call(dict(zip(self._call_defaults, args)) | kwargs, family_of(self).guidance_off)
        return super().__call__(*args, **kwargs)


def _steps(number: int | None) -> str:
    return f"{number} step" if number == 1 else f"{number} steps"


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value)


def _step_count(arguments: Mapping[str, Any]) -> int | None:
    for name in ("sigmas", "timesteps"):
        if arguments.get(name) is not None:
            return len(arguments[name])
    return arguments.get("num_inference_steps")


def _guides(value: float | None, off: float) -> bool:
    """Return whether a guidance argument turns guidance on, given the value `off` that turns it off."""
    return value is not None and value != off and not (off == 0 and 0 <= value <= 1)
