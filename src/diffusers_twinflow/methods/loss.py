"""The loss of a run, whichever it is: TwinFlow's, or flow matching's where TwinFlow is off."""

from collections.abc import Callable, Sequence

import torch

from ..conditions import Condition
from ..configuration import TwinFlowConfig
from .base import LossOutput
from .flow_matching import FlowMatchingObjective
from .teachers import build_teacher
from .twinflow.branches import BranchRotation
from .twinflow.draw import draw_training_step
from .twinflow.objective import TwinFlowObjective


class LossFunction:
    """The loss of one micro-batch at known positions of the run.

    Args:
        velocity_of: makes a velocity function of a transformer, as `Family.velocity`.
        model: the transformer as wrapped for training.
        transformer: the same, unwrapped.
        seed: seed of the run.
        flow_matching: the objective where TwinFlow is off.
        unconditional: the empty prompt's condition, of batch 1, where the options need it.
        use_ema: whether TwinFlow keeps an EMA teacher.
        teacher_copy: from `copy_for_teacher`; by default it is made here.
    """

    def __init__(
        self,
        config: TwinFlowConfig,
        velocity_of: Callable,
        model: Callable,
        transformer: torch.nn.Module,
        *,
        seed: int,
        flow_matching: FlowMatchingObjective,
        unconditional: Condition | None = None,
        use_ema: bool = True,
        teacher_copy: torch.nn.Module | None = None,
    ):
        self.config, self.seed, self.unconditional = config, seed, unconditional
        self.student, self.student_without_grad = velocity_of(model), velocity_of(transformer)
        self.rotation = self.teacher = None
        self.objective = flow_matching
        if config.twinflow_enabled:
            self.rotation = BranchRotation(config.branch_shares)
            self.objective = TwinFlowObjective(config, self.rotation)
            self.teacher = build_teacher(transformer, velocity_of, config, use_ema, teacher_copy)

    def __call__(
        self,
        latents: torch.Tensor,
        condition: Condition,
        positions: Sequence[int],
        passes_of: Sequence[int] | None = None,
        unconditional: Condition | None = None,
    ) -> LossOutput:
        """The loss of latents, shape [B, ...], that stand at `positions` of the run.

        Args:
            unconditional: the empty prompt's condition of each sample, where that is not the same for all.
            passes_of: positions of all processes, where sharded parameters make all of them run the same passes.
        """
        where = {"seed": self.seed, "device": latents.device}
        if self.teacher is None:
            draw = self.objective.draw(positions, latents.shape[1:], **where)
            return self.objective(latents, condition, draw, student=self.student)
        return self.objective(
            latents,
            condition,
            draw_training_step(self.config, self.rotation, positions, latents.shape[1:], passes_of=passes_of, **where),
            student=self.student,
            student_without_grad=self.student_without_grad,
            teacher=self.teacher,
            unconditional=self.unconditional if unconditional is None else unconditional,
        )
