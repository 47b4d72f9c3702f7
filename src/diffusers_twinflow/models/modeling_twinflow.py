"""The mixin that gives a stock diffusers transformer a target time and a sign."""

import inspect
import threading
from collections.abc import Callable
from contextlib import contextmanager

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.modeling_utils import ModelMixin

from .time_conditioning import TimeConditioning

TargetTimestepSource = Callable[[torch.Tensor], torch.Tensor | None]


class _CallState(threading.local):
    """What the forward in progress adds to the timestep embedding; each thread has its own."""

    embedding: torch.Tensor | None = None
    conditioning_name: str = "time_conditioning"

    def __deepcopy__(self, memo):
        return type(self)()

    def __reduce__(self):
        return type(self), ()


class TwinFlowTransformerMixin:
    """Makes a transformer `timestep_sign` aware and gives it a `target_timestep`.

    Off, which is the default, the class is the stock one: same config, same state dict, same output. Switched on and
    not yet trained, its output is the stock one's too. A subclass names the module that embeds the timestep:

        class TwinFlowXTransformer2DModel(TwinFlowTransformerMixin, XTransformer2DModel):
            _timestep_embedder = "time_text_embed.timestep_embedder"
    """

    _timestep_embedder: str
    _timestep_scale: float = 1000.0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        stock = cls.stock_class()
        stock_init = inspect.signature(stock.__init__)

        def __init__(self, *args, twinflow_enabled: bool = False, **kwargs):
            stock.__init__(self, *args, **kwargs)
            if twinflow_enabled:
                self.enable_twinflow()

        enabled = inspect.Parameter("twinflow_enabled", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
        __init__.__signature__ = stock_init.replace(parameters=[*stock_init.parameters.values(), enabled])
        cls.__init__ = __init__
        cls._timestep_position = list(inspect.signature(stock.forward).parameters).index("timestep") - 1

    @classmethod
    def stock_class(cls) -> type[ModelMixin]:
        """The diffusers class that this one extends."""
        return next(
            base
            for base in cls.__mro__
            if issubclass(base, ModelMixin) and not issubclass(base, TwinFlowTransformerMixin)
        )

    @classmethod
    def timestep_embedding_dim(cls, transformer: ModelMixin) -> int:
        """Width of the timestep embedding of a stock or TwinFlow transformer."""
        return transformer.get_submodule(cls._timestep_embedder).linear_2.out_features

    @property
    def twinflow_enabled(self) -> bool:
        return "time_conditioning" in self._modules

    def enable_twinflow(self) -> None:
        """Add the time conditioning, which changes nothing until it is trained or loaded. Does nothing if it is on."""
        if self.twinflow_enabled:
            return
        self._prepare_twinflow()
        self.time_conditioning = self.new_time_conditioning()
        self.register_to_config(twinflow_enabled=True)

    def disable_twinflow(self) -> None:
        """Take the time conditioning away: the stock model again, bit for bit."""
        if not self.twinflow_enabled:
            return
        embedder = self.get_submodule(self._timestep_embedder)
        for key, hook in list(embedder._forward_hooks.items()):
            if getattr(hook, "__func__", None) is TwinFlowTransformerMixin._add_embedding:
                del embedder._forward_hooks[key]
        for name in [name for name in self._modules if name.endswith("time_conditioning")]:
            delattr(self, name)
        self._internal_dict = FrozenDict({k: v for k, v in self.config.items() if k != "twinflow_enabled"})

    def new_time_conditioning(self) -> TimeConditioning:
        """An untrained time conditioning of this model's width, device and dtype."""
        reference = next(self.get_submodule(self._timestep_embedder).parameters())
        with torch.device(reference.device):
            conditioning = TimeConditioning(self.timestep_embedding_dim(self), self._timestep_scale)
        return conditioning.to(self.dtype)

    def set_target_timestep_source(self, source: TargetTimestepSource | None) -> None:
        """Where the target timestep comes from in a call that does not pass one, as stock pipelines' calls do not.

        Args:
            source: takes the timestep and returns the target timestep in the same unit, or `None` for none.
        """
        self._target_timestep_source = source

    @contextmanager
    def use_time_conditioning(self, name: str):
        """Within the context this thread's calls use the time conditioning that is this model's child `name`."""
        outer, self._call_state.conditioning_name = self._call_state.conditioning_name, name
        try:
            yield
        finally:
            self._call_state.conditioning_name = outer

    def forward(self, *args, timestep_sign=None, target_timestep=None, **kwargs):
        """The stock forward with two more arguments.

        Args:
            timestep_sign: shape [B], +1 on the real trajectory (the default) and -1 on the twin's.
            target_timestep: shape [B], the time to jump to, in the unit of `timestep`; the default is `timestep`
                itself, or what the target timestep source gives.

        Raises:
            ValueError: where either is given and the time conditioning is off.
        """
        if not self.twinflow_enabled:
            if timestep_sign is not None or target_timestep is not None:
                raise ValueError(
                    f"this {type(self).__name__} has twinflow_enabled=false and takes neither timestep_sign nor "
                    "target_timestep: call enable_twinflow() on it, or load a TwinFlow checkpoint."
                )
            return super().forward(*args, **kwargs)

        timestep = kwargs["timestep"] if "timestep" in kwargs else args[self._timestep_position]
        if target_timestep is None and self._target_timestep_source is not None:
            target_timestep = self._target_timestep_source(timestep)
        if target_timestep is None and timestep_sign is None:
            return super().forward(*args, **kwargs)

        state = self._call_state
        conditioning = getattr(self, state.conditioning_name)
        state.embedding = conditioning(timestep, target_timestep, timestep_sign)
        try:
            return super().forward(*args, **kwargs)
        finally:
            state.embedding = None

    def _prepare_twinflow(self) -> None:
        self._call_state = _CallState()
        self._target_timestep_source = None
        self.get_submodule(self._timestep_embedder).register_forward_hook(self._add_embedding)

    def _add_embedding(self, module, args, output):
        embedding = self._call_state.embedding
        return output if embedding is None else output + embedding.to(output.dtype)


def enable_twinflow(transformer: ModelMixin, twinflow_class: type[TwinFlowTransformerMixin]) -> None:
    """Give a loaded stock transformer its time conditioning, in place.

    Args:
        transformer: an instance of `twinflow_class.stock_class()`; adapters and hooks on it stay as they are.
        twinflow_class: the `timestep_sign` aware class to turn it into.

    Raises:
        TypeError: where the transformer is of another class.
    """
    if not isinstance(transformer, twinflow_class):
        if type(transformer) is not twinflow_class.stock_class():
            raise TypeError(
                f"{type(transformer).__name__} has no timestep_sign support through {twinflow_class.__name__}: "
                f"it takes a {twinflow_class.stock_class().__name__}."
            )
        transformer.__class__ = twinflow_class
    transformer.enable_twinflow()


def disable_twinflow(transformer: TwinFlowTransformerMixin) -> None:
    """Undo `enable_twinflow`: the instance is of the stock class again."""
    transformer.disable_twinflow()
    transformer.__class__ = type(transformer).stock_class()
