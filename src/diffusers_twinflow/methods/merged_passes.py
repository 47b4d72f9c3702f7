"""Passes of a LoRA student and its teacher on merged weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..conditions import VelocityFunction
from ..models.merged_lora import MergedLora
from .base import Networks
from .teachers import TEACHER_ADAPTER, EMAAdapterTeacher, StudentTeacher, teacher_conditioning


class MergedPasses:
    """Runs the passes of a LoRA student and of its teacher on the weights of a `MergedLora`.

    The student's or the teacher's weights are merged when one of them is called after the other. Compute the loss and
    its gradients inside `merged.used()`; outside of it the networks run as without this class.

    Args:
        transformer: the student, unwrapped.
        merged: the merged weights of the transformer.
        networks: the networks that run the transformer with PEFT's layers.

    Attributes:
        networks: the same networks, on merged weights. A teacher that is not an adapter is left unchanged.

    Examples:
        >>> merged = MergedLora(transformer)
        >>> networks = MergedPasses(transformer, merged, networks).networks
        >>> with merged.used():
        ...     method.loss(latents, condition, draw, networks).loss.backward()
    """

    def __init__(self, transformer: Any, merged: MergedLora, networks: Networks) -> None:
        self.transformer, self.merged = transformer, merged
        self.networks = replace(
            networks,
            student=self._as_student(networks.student),
            student_without_grad=self._as_student(networks.student_without_grad),
        )
        teacher = networks.teacher
        self.student_adapter = merged.layers[0].trained_adapter
        self.has_teacher_adapter = isinstance(teacher, EMAAdapterTeacher)
        if isinstance(teacher, (EMAAdapterTeacher, StudentTeacher)):
            self.velocity = teacher.velocity
            self.networks = replace(self.networks, teacher=self)

    @contextmanager
    def activated(self) -> Iterator[VelocityFunction]:
        """Return a context that yields the teacher's velocity function. Do not call the student inside it."""
        if not self.has_teacher_adapter:
            self.merged.merge(self.student_adapter)
            yield self.velocity
            return
        self.merged.merge(TEACHER_ADAPTER)
        with teacher_conditioning(self.transformer):
            yield self.velocity

    def _as_student(self, velocity: VelocityFunction) -> VelocityFunction:
        def student(*args: Any) -> torch.Tensor:
            self.merged.merge(self.student_adapter)
            return velocity(*args)

        return student
