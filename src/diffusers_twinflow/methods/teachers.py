"""The teachers of a student. They share as many weights with it as possible."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from ..conditions import VelocityFunction, VelocityOf
from ..flow import ema_decay_warmup
from ..models.adapter_layers import adapter_layers
from ..models.denoisers_by_time import denoisers_in
from ..sharding import copy_whole, local_part, reshard, whole

TEACHER_ADAPTER = "teacher"
STUDENT_CONDITIONING, TEACHER_CONDITIONING = "time_conditioning", "teacher_time_conditioning"


class EMAWeights:
    """Updates teacher tensors as the exponential moving average of student tensors. The decay warms up from 0.

    Args:
        student, teacher: lists of parameters that match in order, shape and sharding.
        decay: the decay after warm-up; with 1 the teacher never changes.
    """

    def __init__(self, student: list[torch.Tensor], teacher: list[torch.Tensor], decay: float) -> None:
        self.student, self.teacher = student, teacher
        self.target_decay = decay
        self.decay = 1.0 if decay == 1.0 else 0.0

    @torch.no_grad()
    def update(self) -> None:
        """Update the teacher. Call it once per optimizer step, before the teacher is used."""
        if self.target_decay == 1.0:
            return
        teacher = [local_part(tensor) for tensor in self.teacher]
        student = [local_part(tensor).to(t.device) for tensor, t in zip(self.student, teacher)]
        torch._foreach_lerp_(teacher, student, 1 - self.decay)
        self.decay = ema_decay_warmup(self.decay, self.target_decay)


class StudentTeacher:
    """Uses the student itself as teacher, without gradient (`twinflow_allow_no_ema_teacher`)."""

    saved_names: Mapping[str, str] = {}
    decay = None
    is_average = False

    def __init__(self, transformer: nn.Module, velocity_of: VelocityOf) -> None:
        self.transformer, self.velocity = transformer, velocity_of(transformer)

    def update(self) -> None:
        """Do nothing, because the teacher is the student."""

    @contextmanager
    def activated(self) -> Iterator[VelocityFunction]:
        yield self.velocity

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing, because this teacher has no state."""


class EMATeacher:
    """What teachers with averaged weights share.

    Attributes:
        transformer: the module that contains the averaged weights.
        ema: the averaged weights.
    """

    transformer: nn.Module
    ema: EMAWeights

    @property
    def decay(self) -> float:
        return self.ema.decay

    def update(self) -> None:
        reshard(self.transformer)
        self.ema.update()


class EMAModelTeacher(EMATeacher):
    """Uses a copy of the whole transformer as teacher, for training all weights.

    Args:
        transformer: the student.
        copy: the result of `frozen_copy`, sharded like the student.
        velocity_of: turns a transformer into a velocity function.
        decay: the decay after warm-up; with 1 the copy never changes.
    """

    saved_names: Mapping[str, str] = {}

    def __init__(self, transformer: nn.Module, copy: nn.Module, velocity_of: VelocityOf, decay: float) -> None:
        self.transformer, self.velocity = copy, velocity_of(copy)
        pairs = [(s, t) for s, t in zip(transformer.parameters(), copy.parameters()) if s.requires_grad]
        self.ema = EMAWeights([s for s, _ in pairs], [t for _, t in pairs], decay)
        self.is_average = decay < 1

    @contextmanager
    def activated(self) -> Iterator[VelocityFunction]:
        yield self.velocity

    def state_dict(self) -> dict[str, Any]:
        weights = {name: whole(tensor) for name, tensor in self.transformer.named_parameters()}
        return {"decay": self.ema.decay, "weights": weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.decay = state["decay"]
        for name, tensor in self.transformer.named_parameters():
            copy_whole(tensor, state["weights"][name])


class EMAAdapterTeacher(EMATeacher):
    """Uses a second adapter and a second time conditioning on the student's base as teacher, without dropout.

    Call `add_teacher_adapter` first, before the transformer is wrapped for training.

    Args:
        transformer: the student with both adapters.
        velocity_of: turns a transformer into a velocity function.
        decay: the decay after warm-up; with 1 the teacher never changes.
        student_adapter: name of the student's adapter.
    """

    saved_names: Mapping[str, str] = {"adapter_name": TEACHER_ADAPTER, "conditioning_name": TEACHER_CONDITIONING}

    def __init__(
        self, transformer: nn.Module, velocity_of: VelocityOf, decay: float, student_adapter: str = "default"
    ) -> None:
        self.transformer, self.velocity = transformer, velocity_of(transformer)
        self.student_adapter = student_adapter
        self.layers = adapter_layers(transformer)
        self.dropouts = [module for module in transformer.modules() if isinstance(module, nn.Dropout) and module.p]
        parameters = dict(transformer.named_parameters())
        self.names = [name for name in parameters if is_teacher_parameter(name)]
        students = [_student_name(name, student_adapter) for name in self.names]
        self.ema = EMAWeights(
            [parameters[name] for name in students], [parameters[name] for name in self.names], decay
        )
        self.is_average = decay < 1
        self._set_adapter(student_adapter, inference_mode=False)

    @contextmanager
    def activated(self) -> Iterator[VelocityFunction]:
        self._set_adapter(TEACHER_ADAPTER, inference_mode=True)
        were_training = [dropout.training for dropout in self.dropouts]
        for dropout in self.dropouts:
            dropout.training = False
        try:
            with teacher_conditioning(self.transformer):
                yield self.velocity
        finally:
            for dropout, was_training in zip(self.dropouts, were_training):
                dropout.training = was_training
            self._set_adapter(self.student_adapter, inference_mode=False)

    def _set_adapter(self, name: str, inference_mode: bool) -> None:
        names = [name]  # one list for all layers, because torch.compile guards on which layers share it
        for layer in self.layers:
            layer.set_adapter(names, inference_mode=inference_mode)

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.ema.decay, "weights": dict(zip(self.names, map(whole, self.ema.teacher)))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.decay = state["decay"]
        for name, tensor in zip(self.names, self.ema.teacher):
            copy_whole(tensor, state["weights"][name])


def frozen_copy(transformer: nn.Module) -> nn.Module:
    """Return a copy without gradients of a student whose weights all train. Call it before sharding or wrapping."""
    return deepcopy(transformer).requires_grad_(False).eval()


def add_teacher_adapter(transformer: Any, lora_config: LoraConfig, student_adapter: str = "default") -> None:
    """Add the teacher's adapter and time conditioning to a model, with the student's values.

    Args:
        transformer: a diffusers model with the student's adapter.
        lora_config: PEFT's config of the student's adapter.
        student_adapter: name of the student's adapter.
    """
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


@contextmanager
def teacher_conditioning(transformer: nn.Module) -> Iterator[None]:
    """Use the teacher's time conditioning of a model inside the block, if it has one."""
    with ExitStack() as contexts:
        for denoiser in denoisers_in(transformer):
            if hasattr(denoiser, TEACHER_CONDITIONING):
                contexts.enter_context(denoiser.use_time_conditioning(TEACHER_CONDITIONING))
        yield


def is_teacher_parameter(name: str) -> bool:
    """Whether a parameter of a student's transformer belongs to the teacher's adapter or time conditioning."""
    return f".{TEACHER_ADAPTER}." in name or f".{TEACHER_CONDITIONING}." in f".{name}"


def _student_name(name: str, student_adapter: str) -> str:
    if TEACHER_CONDITIONING in name:
        return name.replace(TEACHER_CONDITIONING, STUDENT_CONDITIONING)
    return name.replace(f".{TEACHER_ADAPTER}.", f".{student_adapter}.")
