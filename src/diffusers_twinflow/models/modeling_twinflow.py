"""The mixin that gives a stock diffusers transformer a target time and a sign."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from safetensors.torch import load_file
from torch import nn

from ..sampling_calls import current_sampling_call
from .adapter_layers import base_layer, weight_of
from .conditioning_file import find_conditioning, save_conditioning, split_unfolded
from .embedding_hook import AddEmbedding, CallState
from .merged_copy import merged_copy
from .sample_timesteps import for_every_token, sample_timesteps
from .second_embedder import SECOND_EMBEDDERS, AddSecondEmbedding, SecondEmbedder
from .time_conditioning import TimeConditioning, noise_time
from .timestep_embedders import TimestepEmbedders

TARGET_AND_SIGN, SIGN, SECOND_EMBEDDER = "target_and_sign", "sign", "second_embedder"
CONDITIONINGS = (TARGET_AND_SIGN, SIGN, SECOND_EMBEDDER)
SAVED_CONDITIONING = "_twinflow_conditioning"  # diffusers ignores keys of a config that start with an underscore

logger = logging.get_logger(__name__)

TargetTimestepSource = Callable[[torch.Tensor], torch.Tensor | None]

if TYPE_CHECKING:
    from typing_extensions import Self

    class StockTransformer(ModelMixin, PeftAdapterMixin):
        """What the mixin is mixed into, for type checkers."""

else:
    StockTransformer = object


class TwinFlowTransformerMixin(StockTransformer):
    """Adds the arguments `timestep_sign` and `target_timestep` to a stock transformer.

    While TwinFlow is off, which is the default, config, state dict and output equal the stock class. After
    `enable_twinflow` the output still equals the stock class until the time conditioning is trained or loaded.
    `twinflow_class_of` returns the subclass of a stock class.
    """

    _timestep_embedders: TimestepEmbedders
    _stock_class: type[ModelMixin]
    _forward_parameters: tuple[str, ...]
    _call_state: CallState
    _target_timestep_source: TargetTimestepSource | None
    _embedding_dims: tuple[int, ...]
    _noise_and_data_timesteps: tuple[float, float]
    _folded_layers: dict[str, Any]
    _has_warned_of_no_target: bool
    _internal_dict: FrozenDict
    time_conditioning: TimeConditioning | SecondEmbedder

    @classmethod
    def stock_class(cls) -> type[ModelMixin]:
        """Return the diffusers class that this class extends."""
        return cls._stock_class

    @classmethod
    def timestep_embedding_dims(cls, transformer: ModelMixin) -> tuple[int, ...]:
        """Return the width of each timestep embedding of a stock or TwinFlow transformer."""
        output_layer = cls._timestep_embedders.output_layer
        layers = [submodule(module, output_layer) for module in cls._embedder_modules(transformer)]
        return tuple(getattr(layer, "out_features", None) or weight_of(layer).shape[0] for layer in layers)

    @classmethod
    def timestep_embedding_dim(cls, transformer: ModelMixin) -> int:
        """Return the total width of all timestep embeddings of a stock or TwinFlow transformer."""
        return sum(cls.timestep_embedding_dims(transformer))

    @classmethod
    def conditioning_of(
        cls, transformer: ModelMixin, conditioning: str = TARGET_AND_SIGN
    ) -> TimeConditioning | SecondEmbedder:
        """Create an untrained time conditioning for a stock or TwinFlow transformer, on torch's default device."""
        if conditioning == SECOND_EMBEDDER:
            rule = SECOND_EMBEDDERS[cls._stock_class.__name__]
            return SecondEmbedder(transformer, rule, *cls._timestep_range(transformer))
        widths = cls.timestep_embedding_dims(transformer)
        return TimeConditioning(
            sum(widths),
            *cls._timestep_range(transformer),
            hidden_dim=widths[0],
            embeds_target=conditioning == TARGET_AND_SIGN and not cls._has_native_target(transformer),
        )

    @property
    def twinflow_enabled(self) -> bool:
        """Whether the model has a time conditioning."""
        return "time_conditioning" in self._modules

    @property
    def twinflow_conditioning(self) -> str:
        """The kind of time conditioning, one of `CONDITIONINGS`, that this model has or gets when it is enabled."""
        return self.config.get("twinflow_conditioning", TARGET_AND_SIGN)

    def enable_twinflow(self, conditioning: str = TARGET_AND_SIGN) -> None:
        """Add the time conditioning, which changes no output until it is trained or loaded.

        Does nothing if the model already has one.

        Args:
            conditioning: "target_and_sign" (the default), "sign" for weights that SimpleTuner trained, or
                "second_embedder" for weights of the TwinFlow authors. A converted checkpoint names its kind in its
                config.

        Raises:
            ValueError: if this class has no such conditioning.
        """
        if self.twinflow_enabled:
            return
        self._check_conditioning(conditioning)
        module = self.new_time_conditioning(conditioning)
        self._prepare_twinflow(conditioning)
        self.time_conditioning = module
        self.register_to_config(twinflow_enabled=True)
        if conditioning != TARGET_AND_SIGN:
            self.register_to_config(twinflow_conditioning=conditioning)

    def disable_twinflow(self) -> None:
        """Remove the time conditioning, so that the model equals the stock model exactly."""
        if not self.twinflow_enabled:
            return
        for module in self.modules():
            for key, hook in list(module._forward_hooks.items()):
                if isinstance(hook, (AddEmbedding, AddSecondEmbedding)):
                    del module._forward_hooks[key]
                    module._forward_hooks_with_kwargs.pop(key, None)
        for name in [name for name in self._modules if name.endswith("time_conditioning")]:
            delattr(self, name)
        del self._call_state, self._target_timestep_source, self._embedding_dims, self._noise_and_data_timesteps
        del self._has_warned_of_no_target
        self._internal_dict = _without_twinflow(self.config)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a path of `None` loads nothing
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> "Self":
        """Load the model as the stock class does, and its time conditioning if it was saved with one.

        Raises:
            FileNotFoundError: if the file of the time conditioning is missing.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        conditioning = model.config.get(SAVED_CONDITIONING)
        if conditioning is not None:
            tensors = load_file(find_conditioning(pretrained_model_name_or_path, **kwargs))
            tensors, unfolded = split_unfolded(tensors)
            model.enable_twinflow(conditioning)
            model.time_conditioning.load_state_dict(tensors)
            model._unfold(unfolded)
            model.time_conditioning.train(model.training)
        return loaded

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Save a model that the stock class can load, and the time conditioning in a separate file next to it.

        Adapters are merged into the saved weights. This model does not change. Takes the arguments of
        [`~diffusers.ModelMixin.save_pretrained`].
        """
        copied = merged_copy(self)
        unfolded = copied._fold()
        if self.twinflow_enabled and is_main_process:
            save_conditioning(copied.time_conditioning, save_directory, unfolded)
        copied._as_stock_model()
        copied.save_pretrained(save_directory, is_main_process, *args, **kwargs)

    if not TYPE_CHECKING:  # code that inspects the method sees the stock signature
        save_pretrained = wraps(ModelMixin.save_pretrained, assigned=())(save_pretrained)

    def with_folded(self, layers: Mapping[str, Any]) -> "Self":
        """Return a copy for saving whose stock weights contain the target time.

        Args:
            layers: the result of `fold_target`, by layer.
        """
        copied = merged_copy(self)
        copied._folded_layers = dict(layers)
        return copied

    def stock_copy(self, layers: Mapping[str, Any]) -> ModelMixin:
        """Return a stock model for saving, with all adapters merged and the target time in its weights."""
        copied = self.with_folded(layers)
        copied._fold()
        copied._as_stock_model(keeps_conditioning=False)
        return copied

    def _fold(self) -> dict[str, torch.Tensor]:
        """Add the folded layers to the weights of a copy, and return the original weights."""
        unfolded = {}
        for name, layer in vars(self).get("_folded_layers", {}).items():
            module = self.get_submodule(name)
            unfolded[name] = weight = weight_of(module)
            update = layer.lora_B.cpu().double() @ layer.lora_A.cpu().double()
            module._parameters["weight"] = nn.Parameter((weight.detach().cpu().double() + update).to(weight), False)
        return unfolded

    def _unfold(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Remove the target time from loaded stock weights.

        Raises:
            ValueError: if a weight does not belong to a timestep embedder of this model.
        """
        parameters = dict(self.named_parameters())
        paths = self._timestep_embedders.paths
        for name, weight in weights.items():
            if not name.startswith(paths) or name not in parameters or parameters[name].shape != weight.shape:
                raise ValueError(
                    f"The file of the time conditioning contains '{name}', which does not fit this model. Load the file "
                    "that was saved with the model, or save the model again."
                )
            with torch.no_grad():
                parameters[name].copy_(weight)

    def _as_stock_model(self, keeps_conditioning: bool = True) -> None:
        """Turn a copy that is only for saving into an instance of the stock class."""
        keeps = keeps_conditioning and self.twinflow_enabled
        saved = {SAVED_CONDITIONING: self.twinflow_conditioning} if keeps else {}
        for name in [name for name in self._modules if name.endswith("time_conditioning")]:
            del self._modules[name]
        self._internal_dict = FrozenDict({**_without_twinflow(self.config), **saved})
        self.__class__ = type(self).stock_class()  # type: ignore[assignment]

    def new_time_conditioning(self, conditioning: str | None = None) -> TimeConditioning | SecondEmbedder:
        """Create an untrained time conditioning with this model's width, device and dtype.

        Args:
            conditioning: one of `CONDITIONINGS`; defaults to the model's kind.
        """
        with torch.device(self.device):
            module = self.conditioning_of(self, conditioning or self.twinflow_conditioning)
        return module.to(self.dtype)

    def set_target_timestep_source(self, source: TargetTimestepSource | None) -> None:
        """Set a function that supplies `target_timestep` for calls that pass none.

        Args:
            source: takes the timestep and returns the target timestep in the same unit, or `None` for no target. Pass
                `None` to get targets from the running `TwinFlowScheduler` again, which is the default.
        """
        self._target_timestep_source = source

    @contextmanager
    def use_time_conditioning(self, name: str) -> Iterator[None]:
        """Use the time conditioning that is this model's child `name` for calls of this thread in the context."""
        additions = self._call_state.additions
        outer, additions.conditioning_name = additions.conditioning_name, name
        try:
            yield
        finally:
            additions.conditioning_name = outer

    def forward(
        self,
        *args: Any,
        timestep_sign: torch.Tensor | None = None,
        target_timestep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the stock forward with two more arguments.

        Args:
            timestep_sign: shape [B], +1 for the real trajectory (the default) and -1 for the twin's.
            target_timestep: shape [B], the time to jump to, in the unit of `timestep`. The default is the target of the
                `TwinFlowScheduler` that is sampling in this thread, or `timestep` if there is none. If the stock class
                already takes a target time, it is passed there.

        Returns:
            The output of the stock forward.

        Raises:
            ValueError: if either argument is passed while the time conditioning is off.
        """
        if not self.twinflow_enabled:
            self._check_off(timestep_sign, target_timestep)
            if target_timestep is not None:
                kwargs["target_timestep"] = target_timestep
            return super().forward(*args, **kwargs)

        rule = self._timestep_embedders
        arguments = {**dict(zip(self._forward_parameters, args)), **kwargs}
        timestep = sample_timesteps(arguments[rule.argument], rule, type(self).__name__)
        target_timestep = self._known_target(timestep, target_timestep)
        if target_timestep is None and timestep_sign is None and not torch.compiler.is_compiling():
            self._warn_of_no_target(arguments)
        args, kwargs = self._with_native_target(args, kwargs, arguments, target_timestep)
        if target_timestep is None and timestep_sign is None:
            return super().forward(*args, **kwargs)

        additions = self._call_state.additions
        conditioning = getattr(self, additions.conditioning_name)
        tensors = conditioning(timestep, target_timestep, timestep_sign)
        if isinstance(conditioning, SecondEmbedder):
            own = conditioning.stock_timestep(timestep, timestep_sign)
            args, kwargs = self._with_argument(args, kwargs, rule.argument, own)
            call = conditioning.rule.call
        else:
            tensors = tensors.split(self._embedding_dims, dim=-1)
            call = rule.call(self, arguments) if callable(rule.call) else rule.call
        additions.begin(conditioning, tensors, call)
        try:
            return super().forward(*args, **kwargs)
        finally:
            additions.end()

    def _known_target(self, timestep: torch.Tensor, target_timestep: torch.Tensor | None) -> torch.Tensor | None:
        """Return the target time from the caller or else from the source; `None` if there is none."""
        if self.twinflow_conditioning == SIGN:
            if target_timestep is not None:
                raise ValueError(
                    f"This {type(self).__name__} has twinflow_conditioning='{SIGN}', which knows no target_timestep. "
                    "Pass only timestep_sign."
                )
            return None
        if target_timestep is not None:
            return target_timestep
        if self._target_timestep_source is not None:
            return self._target_timestep_source(timestep)
        return self._scheduled_target(timestep)

    def _scheduled_target(self, timestep: torch.Tensor) -> torch.Tensor | None:
        """Return the target of the sampling loop of this thread, or `timestep` if the loop is at another timestep."""
        call = current_sampling_call()
        if call is None:
            return None
        at_noise, at_data = self._noise_and_data_timesteps
        exact = torch.promote_types(timestep.dtype, torch.float32)
        now = noise_time(timestep, at_noise, at_data)
        target = call.target_of(now, is_rounded=timestep.dtype != exact)
        target_timestep = target * (at_noise - at_data)
        return torch.where(target == now, timestep, target_timestep + at_data if at_data else target_timestep)

    def _warn_of_no_target(self, arguments: Mapping[str, Any]) -> None:
        """Warn once if a few-step model is called as an ordinary one. Reads no tensor values.

        Args:
            arguments: arguments of the stock forward, which may include a target time.
        """
        if self._has_warned_of_no_target or self.twinflow_conditioning == SIGN:
            return
        native = self._timestep_embedders.native_target
        if native is not None and arguments.get(native.argument) is not None:
            return
        if self._target_timestep_source is not None:  # it returned `None` on purpose
            return
        self._has_warned_of_no_target = True
        logger.warning(
            f"This {type(self).__name__} was called without a target time, so it acts as an ordinary flow-matching model "
            "and images from few steps are blurred. In a pipeline, set `pipe.scheduler = "
            "TwinFlowScheduler.from_config(pipe.scheduler.config)`. In your own sampling loop, pass `target_timestep`. "
            "To use the stock model, call `disable_twinflow` on it."
        )

    def _check_conditioning(self, conditioning: str) -> None:
        if conditioning not in CONDITIONINGS:
            raise ValueError(
                f"conditioning={conditioning!r} is not valid: it must be one of {', '.join(CONDITIONINGS)}."
            )
        if conditioning == SECOND_EMBEDDER and self._stock_class.__name__ not in SECOND_EMBEDDERS:
            raise ValueError(
                f"conditioning='{SECOND_EMBEDDER}' is not available for a {self._stock_class.__name__}, only for "
                f"{', '.join(SECOND_EMBEDDERS)}. Use '{TARGET_AND_SIGN}'."
            )

    def _check_off(self, timestep_sign: torch.Tensor | None, target_timestep: torch.Tensor | None) -> None:
        native = self._timestep_embedders.native_target
        if target_timestep is not None and native is not None and native.argument == "target_timestep":
            target_timestep = None
        if timestep_sign is not None or target_timestep is not None:
            raise ValueError(
                f"This {type(self).__name__} has twinflow_enabled=false and takes neither timestep_sign nor "
                "target_timestep. Call enable_twinflow() on it, or load a TwinFlow checkpoint."
            )

    def _with_native_target(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        arguments: dict[str, Any],
        target_timestep: torch.Tensor | None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the stock forward's arguments, with the target time in them if the stock class takes one.

        If no target is known, the caller's value is kept, or else the timestep is used.
        """
        rule = self._timestep_embedders
        native = rule.native_target
        if native is None or not native.is_in(self):
            return args, kwargs
        timestep, name = arguments[rule.argument], native.argument
        if target_timestep is not None:
            target: torch.Tensor | None = for_every_token(target_timestep, timestep)
        else:
            target = arguments.get(name)
        target = timestep if target is None else target
        return self._with_argument(args, kwargs, name, target)

    def _with_argument(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, value: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the stock forward's arguments with one of them replaced."""
        position = self._forward_parameters.index(name)
        if position < len(args):
            return (*args[:position], value, *args[position + 1 :]), kwargs
        return args, {**kwargs, name: value}

    @classmethod
    def _has_native_target(cls, transformer: ModelMixin) -> bool:
        native = cls._timestep_embedders.native_target
        return native is not None and native.is_in(transformer)

    def _prepare_twinflow(self, conditioning: str) -> None:
        self._call_state = CallState()
        self._target_timestep_source = None
        self._has_warned_of_no_target = False
        self._embedding_dims = self.timestep_embedding_dims(self)
        self._noise_and_data_timesteps = self._timestep_range(self)
        if conditioning == SECOND_EMBEDDER:
            second = SECOND_EMBEDDERS[self._stock_class.__name__]
            add_second = AddSecondEmbedding(self._call_state, second)
            self.get_submodule(second.path).register_forward_hook(add_second, with_kwargs=True)
            return
        rule = self._timestep_embedders
        for index, module in enumerate(self._embedder_modules(self)):
            hook = AddEmbedding(self._call_state, index, rows=rule.rows, element=rule.element)
            base_layer(module).register_forward_hook(hook)

    @classmethod
    def _timestep_range(cls, transformer: ModelMixin) -> tuple[float, float]:
        """Return the transformer's timesteps at noise and at data."""
        rule = cls._timestep_embedders
        scale = 1.0 if rule.config_scale is None else transformer.config[rule.config_scale]
        return rule.at_noise * scale, rule.at_data * scale

    @classmethod
    def _embedder_modules(cls, transformer: ModelMixin) -> list[nn.Module]:
        modules = [find_submodule(transformer, path) for path in cls._timestep_embedders.paths]
        return [module for module in modules if module is not None]


def _without_twinflow(config: Mapping[str, Any]) -> FrozenDict:
    return FrozenDict({name: value for name, value in config.items() if not name.lstrip("_").startswith("twinflow_")})


def submodule(module: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, looking through adapters on the way.

    Raises:
        AttributeError: if there is none.
    """
    found = find_submodule(module, path)
    if found is None:
        raise AttributeError(f"A {type(module).__name__} has no module '{path}'.")
    return found


def find_submodule(module: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path, looking through adapters on the way; `None` if there is none."""
    for name in filter(None, path.split(".")):
        child = getattr(base_layer(module), name, None)
        if child is None:
            return None
        module = child
    return module
