"""The TwinFlow training method (arXiv:2512.05150)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig
from torch import nn

from ...conditions import Condition, VelocityOf
from ...configuration import TwinFlowConfig, TwinFlowConfigError
from ...models.adapter_layers import has_adapters
from ..base import LossOutput, Networks, Teacher
from ..teachers import (
    EMAAdapterTeacher,
    EMAModelTeacher,
    StudentTeacher,
    add_teacher_adapter,
    frozen_copy,
)
from .branches import BRANCHES, Branch
from .draw import TrainingDraw, draw_training_step
from .objective import TwinFlowObjective
from .rotation import BranchRotation

TeacherKind = Literal["ema", "frozen", "student"]


class TwinFlow:
    """Distills a model for few steps with TwinFlow.

    It combines flow matching, any-step, one-step, self-adversarial and rectification losses.

    Args:
        config: the options, with `twinflow_enabled` true.
        teacher: the teacher of the student. "ema" is an average of the student's weights with decay
            `twinflow_ema_decay`, "frozen" is the base before training, and "student" is the student itself, which is
            unstable. By default `twinflow_ema_decay` decides: 1 is "frozen", 0 is "student", and any other value is
            "ema". A frozen base has never learned a target time, so the student makes the jumps of its targets.
        branches: the branches among which the samples of a batch are divided. Defaults to the five branches of
            TwinFlow, with the shares of the options.

    Attributes:
        config: the options, including those that describe the teacher.
        teacher: the kind of teacher.

    Raises:
        TwinFlowConfigError: if TwinFlow is off, if the options contradict the teacher, or if no branch has a share.

    Examples:
        >>> config = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True)
        >>> Trainer("stabilityai/stable-diffusion-3.5-medium", arguments, TwinFlow(config)).train()
    """

    name = "TwinFlow"
    part_names: Sequence[str] = ("rectify",)

    def __init__(
        self, config: TwinFlowConfig, teacher: TeacherKind | None = None, branches: Sequence[Branch] = BRANCHES
    ) -> None:
        if not config.twinflow_enabled:
            raise TwinFlowConfigError(
                "twinflow_enabled=false is not valid for TwinFlow: set it to true, or use the method FlowMatching."
            )
        self.use_ema = teacher != "student"
        self.teacher = teacher_of(config.twinflow_ema_decay) if teacher is None else teacher
        self.config = _with_teacher(config, self.teacher)
        self.branches = tuple(branches)
        self.branch_names: Sequence[str] = tuple(branch.name for branch in self.branches)
        if len(set(self.branch_names)) < len(self.branch_names):
            raise TwinFlowConfigError(
                f"branches={list(self.branch_names)} is not valid: each branch must have a different name."
            )
        self.rotation = BranchRotation({branch.name: branch.share(self.config) for branch in self.branches})
        self.branch_cycle: Sequence[str] = self.rotation.cycle
        self.objective = TwinFlowObjective(self.config, self.branches)

    @property
    def keeps_teacher(self) -> bool:
        """Whether the teacher has weights besides the student's."""
        return self.teacher != "student"

    @property
    def needs_unconditional(self) -> bool:
        return self.config.needs_unconditional

    def options(self) -> dict[str, Any]:
        return self.config.to_dict()

    def add_teacher(self, transformer: nn.Module, lora_config: LoraConfig) -> None:
        """Add the teacher's adapter and time conditioning to a student with a LoRA."""
        if self.keeps_teacher:
            add_teacher_adapter(transformer, lora_config)

    def copy_for_teacher(self, transformer: nn.Module) -> nn.Module | None:
        """Return a frozen copy of the student, or `None` for a LoRA or if the student is its own teacher."""
        return frozen_copy(transformer) if self.keeps_teacher and not has_adapters(transformer) else None

    def build_teacher(self, transformer: nn.Module, velocity_of: VelocityOf, copy: nn.Module | None = None) -> Teacher:
        """Create the teacher of a student that is ready for training.

        Args:
            transformer: the student, unwrapped. For a LoRA, call `add_teacher` first.
            velocity_of: turns a transformer into a velocity function.
            copy: the result of `copy_for_teacher`, sharded like the student. By default a copy is made here.
        """
        if not self.keeps_teacher:
            return StudentTeacher(transformer, velocity_of)
        decay = self.config.twinflow_ema_decay
        if has_adapters(transformer):
            return EMAAdapterTeacher(transformer, velocity_of, decay)
        return EMAModelTeacher(transformer, copy or frozen_copy(transformer), velocity_of, decay)

    def draw(
        self,
        positions: Sequence[int],
        latent_shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        passes_of: Sequence[int] | None = None,
    ) -> TrainingDraw:
        """Draw branches, times and noise for the samples at `positions` of the run."""
        return draw_training_step(
            self.config,
            self.branches,
            self.rotation,
            positions,
            latent_shape,
            seed=seed,
            device=device,
            passes_of=passes_of,
        )

    def loss(self, latents: torch.Tensor, condition: Condition, draw: TrainingDraw, networks: Networks) -> LossOutput:
        """Compute the losses of all branches and of the rectification, for latents of shape [B, ...]."""
        return self.objective(latents, condition, draw, networks)


def teacher_of(decay: float) -> TeacherKind:
    """Return the kind of teacher for a value of `twinflow_ema_decay`."""
    if decay == 0:
        return "student"
    return "frozen" if decay == 1 else "ema"


def _with_teacher(config: TwinFlowConfig, teacher: TeacherKind) -> TwinFlowConfig:
    """Return the options changed to describe the teacher."""
    if teacher not in get_args(TeacherKind):
        raise TwinFlowConfigError(
            f"teacher={teacher!r} is not valid: it must be one of {', '.join(get_args(TeacherKind))}."
        )
    if teacher == "frozen":
        return replace(config, twinflow_ema_decay=1.0)
    if teacher == "student":
        return replace(config, twinflow_allow_no_ema_teacher=True)
    if teacher_of(config.twinflow_ema_decay) != "ema":
        raise TwinFlowConfigError(
            f"teacher='ema' is not valid with twinflow_ema_decay={config.twinflow_ema_decay}, which averages nothing: "
            "choose a decay such as 0.99."
        )
    return config
