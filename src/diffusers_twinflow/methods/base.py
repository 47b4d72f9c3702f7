"""What a training method is: it draws its randomness first, and its loss is deterministic after that.

A method sees latents, conditions and velocity functions. It knows nothing about a model family, a disk or a process.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from peft import LoraConfig
from torch import nn

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfig

Draw = TypeVar("Draw")
VelocityOf = Callable[[nn.Module], VelocityFunction]


@dataclass
class LossOutput:
    """The loss of one micro-batch of B samples.

    Attributes:
        loss: scalar to call `backward` on.
        per_sample: loss of each sample before the mean, shape [B], without gradient.
        parts: further losses by name, one value per sample that has it, without gradient and unweighted.
        branches: index in the method's `branch_names` of each sample's branch, shape [B]; `None` if it has no branches.
    """

    loss: torch.Tensor
    per_sample: torch.Tensor
    parts: dict[str, torch.Tensor] = field(default_factory=dict)
    branches: torch.Tensor | None = None


class AveragedWeights(Protocol):
    """An average of the trained weights, which can stand in for them.

    Attributes:
        decay: share of the average that an update keeps, now; `None` if nothing is averaged.
        transformer: the network that has the averaged weights while `activated`.
        saved_names: keyword arguments of `save_twinflow_lora` that name the averaged adapter and time conditioning;
            empty if these are the student's own.
    """

    transformer: nn.Module
    saved_names: Mapping[str, str]

    @property
    def decay(self) -> float | None: ...

    def update(self) -> None:
        """Move the average once; called once per optimizer step."""

    def activated(self) -> AbstractContextManager[Any]:
        """A context in which `transformer` has the averaged weights."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Teacher(AveragedWeights, Protocol):
    """The network whose velocity is the student's target.

    Attributes:
        is_average: whether its weights are an average of the student's, which is saved in their place. If not, it is
            the frozen base or the student itself, and the student's weights are saved.
    """

    is_average: bool

    def activated(self) -> AbstractContextManager[VelocityFunction]:
        """A context that yields the teacher's velocity function; nothing in it has a gradient."""


@dataclass(frozen=True)
class Networks:
    """The velocity functions that a loss calls.

    Attributes:
        student: the model in training, as it is wrapped for several processes; a pass with gradient goes through it.
        student_without_grad: the same model, unwrapped, for the passes without gradient.
        teacher: what the student learns from; `None` if the method has no teacher.
        unconditional: the condition of the empty prompt, of batch 1 or B; `None` if the method does not need it.
    """

    student: VelocityFunction
    student_without_grad: VelocityFunction
    teacher: Teacher | None = None
    unconditional: Condition | None = None


class Method(Protocol[Draw]):
    """A way to train a flow-matching model.

    Attributes:
        name: the name in logs.
        config: the TwinFlow options that a trained model carries. If `twinflow_enabled` is true, the model gets a time
            conditioning, and its velocity functions take a target time and a sign.
        branch_names: names of the groups of samples whose losses are logged apart; empty if there are none.
        branch_cycle: name of the branch of the samples at positions 0, 1, ... of a run, until they repeat; empty if
            there are none.
        part_names: names of the further losses in `LossOutput.parts`.
        needs_unconditional: whether `Networks.unconditional` must be given.
        use_ema: whether the method keeps a teacher, or the trainer an average, unless the run's options say otherwise.
    """

    name: str
    config: TwinFlowConfig
    use_ema: bool
    branch_names: Sequence[str]
    branch_cycle: Sequence[str]
    part_names: Sequence[str]

    @property
    def needs_unconditional(self) -> bool: ...

    def options(self) -> dict[str, Any]:
        """The method's options, as a recipe has them."""

    def add_teacher(self, transformer: nn.Module, lora_config: LoraConfig) -> None:
        """Put what the teacher needs on a student with a LoRA, before it is wrapped; nothing if there is no teacher.

        Args:
            transformer: with the student's adapter and time conditioning on it.
            lora_config: PEFT's configuration of the student's adapter.
        """

    def copy_for_teacher(self, transformer: nn.Module) -> nn.Module | None:
        """A frozen copy of the student, made before it is sharded or wrapped; `None` if the method needs none."""

    def build_teacher(
        self, transformer: nn.Module, velocity_of: VelocityOf, copy: nn.Module | None = None
    ) -> Teacher | None:
        """The teacher of a student that is ready for training; `None` if the method has none.

        Args:
            transformer: the student, unwrapped.
            velocity_of: makes a velocity function of a transformer, as `Family.velocity` does.
            copy: from `copy_for_teacher`, on its device.
        """

    def draw(
        self,
        positions: Sequence[int],
        latent_shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str,
        passes_of: Sequence[int] | None = None,
    ) -> Draw:
        """Draw all the randomness of one micro-batch.

        Args:
            positions: position in the run of each of the B samples. The draw of a sample depends on its position and
                on the seed alone.
            latent_shape: shape of one sample, without the batch dimension.
            seed: seed of the run.
            device: where the tensors are wanted.
            passes_of: positions of all processes, if all of them must make the same passes.
        """

    def loss(self, latents: torch.Tensor, condition: Condition, draw: Draw, networks: Networks) -> LossOutput:
        """The loss of latents, shape [B, ...], a deterministic function of its arguments and of the networks."""
