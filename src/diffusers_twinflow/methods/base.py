"""The interface of a training method, which first draws its randomness and then computes a deterministic loss.

A method works with latents, conditions and velocity functions. It does not depend on model families, files or processes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from peft import LoraConfig
from torch import nn

from ..conditions import Condition, VelocityFunction, VelocityOf
from ..configuration import TwinFlowConfig

Draw = TypeVar("Draw")


@dataclass
class LossOutput:
    """The loss of one micro-batch of B samples.

    Attributes:
        loss: scalar to call `backward` on.
        per_sample: loss of each sample before the mean, shape [B], without gradient.
        parts: further losses by name, without gradient and unweighted, with one value per sample that has such a loss.
        branches: index of each sample's branch in the method's `branch_names`, shape [B]; `None` without branches.
    """

    loss: torch.Tensor
    per_sample: torch.Tensor
    parts: dict[str, torch.Tensor] = field(default_factory=dict)
    branches: torch.Tensor | None = None


class AveragedWeights(Protocol):
    """An average of the trained weights, which can be used and saved instead of them.

    Attributes:
        decay: current share of the average that an update keeps; `None` if nothing is averaged.
        transformer: the network that has the averaged weights while `activated`.
        saved_names: keyword arguments of `save_twinflow_lora` that name the averaged adapter and time conditioning.
            Empty if they have the same names as the student's.
    """

    transformer: nn.Module
    saved_names: Mapping[str, str]

    @property
    def decay(self) -> float | None: ...

    def update(self) -> None:
        """Update the average. Call it once per optimizer step."""

    def activated(self) -> AbstractContextManager[Any]:
        """Return a context in which `transformer` has the averaged weights."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TeacherPasses(Protocol):
    """Gives the passes of the network that provides the student's targets."""

    def activated(self) -> AbstractContextManager[VelocityFunction]:
        """Return a context that yields the teacher's velocity function, without gradients."""


class Teacher(AveragedWeights, TeacherPasses, Protocol):
    """The network that provides the student's targets.

    Attributes:
        is_average: whether its weights are an average of the student's weights. The average is then saved as the
            result. Otherwise the teacher is the frozen base or the student itself, and the student's weights are saved.
    """

    is_average: bool

    def activated(self) -> AbstractContextManager[VelocityFunction]: ...


@dataclass(frozen=True)
class Networks:
    """The velocity functions that a loss calls.

    Attributes:
        student: the model in training, wrapped for several processes if there are any. Use it for passes with gradient.
        student_without_grad: the same model, unwrapped, for passes without gradient.
        teacher: the teacher's passes; `None` if the method has no teacher.
        unconditional: the condition of the empty prompt, of batch 1 or B; `None` if the method does not need it.
        weights: the weight of each number of the samples in the loss, shape [1, ...] or [B, ...]; `None` if all count
            alike.
    """

    student: VelocityFunction
    student_without_grad: VelocityFunction
    teacher: TeacherPasses | None = None
    unconditional: Condition | None = None
    weights: torch.Tensor | None = None


class Method(Protocol[Draw]):
    """A way to train a flow-matching model.

    Attributes:
        name: the name in logs.
        config: the TwinFlow options that are saved with the trained model. If `twinflow_enabled` is true, the model gets
            a time conditioning, and its velocity functions take a target time and a sign.
        branch_names: names of the groups of samples whose losses are logged separately; empty if there are none.
        branch_cycle: branch names of the samples at positions 0, 1, ... of a run, until they repeat; empty if there
            are no branches.
        part_names: names of the further losses in `LossOutput.parts`.
        use_ema: whether there is an EMA teacher or an EMA of the weights, unless the run's options say otherwise.
    """

    name: str
    config: TwinFlowConfig
    use_ema: bool
    branch_names: Sequence[str]
    branch_cycle: Sequence[str]
    part_names: Sequence[str]

    @property
    def needs_unconditional(self) -> bool:
        """Whether `Networks.unconditional` is required."""

    def options(self) -> dict[str, Any]:
        """Return the method's options with the names that a recipe uses."""

    def add_teacher(self, transformer: nn.Module, lora_config: LoraConfig) -> None:
        """Add the teacher's adapter to a student with a LoRA, before the student is wrapped.

        Does nothing if the method has no teacher.

        Args:
            transformer: the model with the student's adapter and time conditioning.
            lora_config: PEFT's config of the student's adapter.
        """

    def copy_for_teacher(self, transformer: nn.Module) -> nn.Module | None:
        """Return a frozen copy of a student that is not sharded or wrapped yet; `None` if the method needs no copy."""

    def build_teacher(
        self, transformer: nn.Module, velocity_of: VelocityOf, copy: nn.Module | None = None
    ) -> Teacher | None:
        """Create the teacher of a student that is ready for training; `None` if the method has no teacher.

        Args:
            transformer: the student, unwrapped.
            velocity_of: turns a transformer into a velocity function, as `Family.velocity` does.
            copy: the result of `copy_for_teacher`, on its device.
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
            positions: position of each of the B samples in the run. The draw of a sample depends only on its position
                and the seed.
            latent_shape: shape of one sample, without the batch dimension.
            seed: seed of the run.
            device: device of the returned tensors.
            passes_of: positions of the samples of all processes, if all processes must make the same passes.
        """

    def loss(self, latents: torch.Tensor, condition: Condition, draw: Draw, networks: Networks) -> LossOutput:
        """Compute the loss of latents of shape [B, ...]. It depends only on the arguments and draws nothing."""
