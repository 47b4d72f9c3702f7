"""The networks that a student can learn from, without a second copy of what they share with it."""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..configuration import TwinFlowConfig
from ..flow import ema_decay_warmup
from ..sharding import copy_whole, local_part, reshard, whole

TEACHER_ADAPTER = "teacher"
TEACHER_CONDITIONING = "teacher_time_conditioning"


class EMAWeights:
    """Keeps teacher tensors as the exponential moving average of student tensors, with a decay that warms up from 0.

    Args:
        student, teacher: parameters of the same shapes, sharded the same way, pair by pair.
        decay: what the decay approaches; 1 never moves the teacher.
    """

    def __init__(self, student: list[torch.Tensor], teacher: list[torch.Tensor], decay: float):
        self.student, self.teacher = student, teacher
        self.target_decay = decay
        self.decay = 1.0 if decay == 1.0 else 0.0

    @torch.no_grad()
    def update(self) -> None:
        """Move the teacher once; call it once an optimizer step, before the teacher is used."""
        if self.target_decay == 1.0:
            return
        teacher = [local_part(tensor) for tensor in self.teacher]
        student = [local_part(tensor).to(t.device) for tensor, t in zip(self.student, teacher)]
        torch._foreach_lerp_(teacher, student, 1 - self.decay)
        self.decay = ema_decay_warmup(self.decay, self.target_decay)


class StudentTeacher:
    """The student itself, without gradient (`twinflow_allow_no_ema_teacher`)."""

    saved_names: dict[str, str] = {}
    decay = None

    def __init__(self, transformer: nn.Module, velocity_of: Callable):
        self.transformer, self.velocity = transformer, velocity_of(transformer)

    def update(self) -> None:
        """Nothing to do: the student moves by itself."""

    @contextmanager
    def activated(self):
        yield self.velocity

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing to load."""


class EMAModelTeacher:
    """A copy of the whole transformer, for training all weights.

    Args:
        transformer: the student.
        copy: from `copy_for_teacher`.
    """

    saved_names: dict[str, str] = {}

    def __init__(self, transformer: nn.Module, copy: nn.Module, velocity_of: Callable, decay: float):
        self.transformer, self.velocity = copy, velocity_of(copy)
        pairs = [(s, t) for s, t in zip(transformer.parameters(), copy.parameters()) if s.requires_grad]
        self.ema = EMAWeights(*map(list, zip(*pairs)), decay)

    @property
    def decay(self) -> float:
        return self.ema.decay

    def update(self) -> None:
        reshard(self.transformer)
        self.ema.update()

    @contextmanager
    def activated(self):
        yield self.velocity

    def state_dict(self) -> dict:
        weights = {name: whole(tensor) for name, tensor in self.transformer.named_parameters()}
        return {"decay": self.ema.decay, "weights": weights}

    def load_state_dict(self, state: dict) -> None:
        self.ema.decay = state["decay"]
        for name, tensor in self.transformer.named_parameters():
            copy_whole(tensor, state["weights"][name])


class EMAAdapterTeacher:
    """A second low-rank adapter and a second time conditioning on the student's own base.

    `add_teacher_adapter` must have put them there, before the transformer is wrapped for training.
    """

    saved_names = {"adapter_name": TEACHER_ADAPTER, "conditioning_name": TEACHER_CONDITIONING}

    def __init__(self, transformer: nn.Module, velocity_of: Callable, decay: float, student_adapter: str = "default"):
        self.transformer, self.velocity = transformer, velocity_of(transformer)
        self.student_adapter = student_adapter
        self.layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
        parameters = dict(transformer.named_parameters())
        self.names = [name for name in parameters if is_teacher_parameter(name)]
        students = [_student_name(name, student_adapter) for name in self.names]
        self.ema = EMAWeights(
            [parameters[name] for name in students], [parameters[name] for name in self.names], decay
        )
        self._set_adapter(student_adapter, inference_mode=False)

    @property
    def decay(self) -> float:
        return self.ema.decay

    def update(self) -> None:
        reshard(self.transformer)
        self.ema.update()

    @contextmanager
    def activated(self):
        self._set_adapter(TEACHER_ADAPTER, inference_mode=True)
        try:
            if hasattr(self.transformer, TEACHER_CONDITIONING):
                with self.transformer.use_time_conditioning(TEACHER_CONDITIONING):
                    yield self.velocity
            else:
                yield self.velocity
        finally:
            self._set_adapter(self.student_adapter, inference_mode=False)

    def _set_adapter(self, name: str, inference_mode: bool) -> None:
        names = [name]  # one list for all layers: torch.compile guards on which layers share it
        for layer in self.layers:
            layer.set_adapter(names, inference_mode=inference_mode)

    def state_dict(self) -> dict:
        return {"decay": self.ema.decay, "weights": dict(zip(self.names, map(whole, self.ema.teacher)))}

    def load_state_dict(self, state: dict) -> None:
        self.ema.decay = state["decay"]
        for name, tensor in zip(self.names, self.ema.teacher):
            copy_whole(tensor, state["weights"][name])


def keeps_teacher(config: TwinFlowConfig, use_ema: bool) -> bool:
    """Whether training with these options keeps weights of a teacher beside the student's."""
    return config.twinflow_enabled and use_ema and config.twinflow_ema_decay > 0


def copy_for_teacher(transformer: nn.Module, config: TwinFlowConfig, use_ema: bool) -> nn.Module | None:
    """A frozen copy of the student for training all weights, made before it is sharded or wrapped; else `None`."""
    if not keeps_teacher(config, use_ema) or _has_adapter(transformer):
        return None
    return deepcopy(transformer).requires_grad_(False).eval()


def build_teacher(
    transformer: nn.Module,
    velocity_of: Callable,
    config: TwinFlowConfig,
    use_ema: bool,
    copy: nn.Module | None = None,
):
    """The teacher that the options ask for.

    Args:
        transformer: the student, unwrapped, with `add_teacher_adapter` done where it is a LoRA.
        velocity_of: makes a velocity function of a transformer.
        copy: from `copy_for_teacher`, sharded as the student is; by default it is made here.
    """
    if not keeps_teacher(config, use_ema):
        return StudentTeacher(transformer, velocity_of)
    if _has_adapter(transformer):
        return EMAAdapterTeacher(transformer, velocity_of, config.twinflow_ema_decay)
    copy = copy or copy_for_teacher(transformer, config, use_ema)
    return EMAModelTeacher(transformer, copy, velocity_of, config.twinflow_ema_decay)


def _has_adapter(transformer: nn.Module) -> bool:
    return any(isinstance(module, BaseTunerLayer) for module in transformer.modules())


def add_teacher_adapter(transformer: nn.Module, lora_config, student_adapter: str = "default") -> None:
    """Put the teacher's adapter and time conditioning beside the student's, with the student's values."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        transformer.add_adapter(lora_config, adapter_name=TEACHER_ADAPTER)
    if hasattr(transformer, "time_conditioning"):
        setattr(transformer, TEACHER_CONDITIONING, deepcopy(transformer.time_conditioning).requires_grad_(False))
    transformer.set_adapter(student_adapter)
    parameters = dict(transformer.named_parameters())
    for name, parameter in parameters.items():
        if is_teacher_parameter(name):
            parameter.data = parameters[_student_name(name, student_adapter)].data.clone()
            parameter.requires_grad_(False)


def is_teacher_parameter(name: str) -> bool:
    """Whether a parameter of a student's transformer belongs to the teacher that lives inside it."""
    return f".{TEACHER_ADAPTER}." in name or name.startswith(f"{TEACHER_CONDITIONING}.")


def _student_name(name: str, student_adapter: str) -> str:
    if name.startswith(f"{TEACHER_CONDITIONING}."):
        return name.removeprefix("teacher_")
    return name.replace(f".{TEACHER_ADAPTER}.", f".{student_adapter}.")
