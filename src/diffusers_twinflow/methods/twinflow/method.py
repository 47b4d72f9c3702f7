"""TwinFlow as a training method (arXiv:2512.05150)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from ...conditions import Condition
from ...configuration import TwinFlowConfig, TwinFlowConfigError
from ..base import LossOutput, Networks, Teacher, VelocityOf
from ..teachers import build_teacher, copy_for_teacher
from .branches import BRANCHES, BranchRotation
from .draw import TrainingDraw, draw_training_step
from .objective import TwinFlowObjective

TeacherKind = Literal["ema", "frozen", "student"]


class TwinFlow:
    """Full TwinFlow: flow matching, any-step, one-step, self-adversarial and rectification losses.

    Args:
        config: the options, with `twinflow_enabled` true.
        teacher: what the student learns from: an average of its weights ("ema", decay `twinflow_ema_decay`), the base
            as it was ("frozen"), or the student itself ("student", unstable). The default follows the options.

    Raises:
        TwinFlowConfigError: if the options are off, or contradict the teacher.

    Example:

        Trainer(base, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True)))
    """

    name = "TwinFlow"
    branch_names: Sequence[str] = tuple(branch.value for branch in BRANCHES)
    part_names: Sequence[str] = ("rectify",)

    def __init__(self, config: TwinFlowConfig, teacher: TeacherKind | None = None):
        if not config.twinflow_enabled:
            raise TwinFlowConfigError("twinflow_enabled=false switches TwinFlow off: set it, or use FlowMatching.")
        if teacher == "ema" and config.twinflow_ema_decay in (0, 1):
            raise TwinFlowConfigError(
                f"teacher='ema' with twinflow_ema_decay={config.twinflow_ema_decay} averages nothing: choose a decay "
                "such as 0.99."
            )
        if teacher == "frozen":
            config = replace(config, twinflow_ema_decay=1.0)
        elif teacher == "student":
            config = replace(config, twinflow_allow_no_ema_teacher=True)
        elif teacher not in (None, "ema"):
            raise TwinFlowConfigError(f"teacher={teacher!r} is not valid: it must be ema, frozen or student.")
        self.config, self.use_ema = config, teacher != "student"
        self.rotation = BranchRotation(config.branch_shares)
        self.objective = TwinFlowObjective(config, self.rotation)

    @property
    def needs_unconditional(self) -> bool:
        return self.config.needs_unconditional

    def options(self) -> dict[str, Any]:
        return self.config.to_dict()

    def copy_for_teacher(self, transformer: nn.Module) -> nn.Module | None:
        return copy_for_teacher(transformer, self.config, self.use_ema)

    def build_teacher(self, transformer: nn.Module, velocity_of: VelocityOf, copy: nn.Module | None = None) -> Teacher:
        return build_teacher(transformer, velocity_of, self.config, self.use_ema, copy)

    def draw(
        self,
        positions: Sequence[int],
        latent_shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        passes_of: Sequence[int] | None = None,
    ) -> TrainingDraw:
        return draw_training_step(
            self.config, self.rotation, positions, latent_shape, seed=seed, device=device, passes_of=passes_of
        )

    def loss(self, latents: torch.Tensor, condition: Condition, draw: TrainingDraw, networks: Networks) -> LossOutput:
        return self.objective(
            latents,
            condition,
            draw,
            student=networks.student,
            student_without_grad=networks.student_without_grad,
            teacher=networks.teacher,
            unconditional=networks.unconditional,
        )
