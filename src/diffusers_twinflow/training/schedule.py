"""Compute how many samples and steps a run has over all processes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..configuration import TwinFlowConfigError
from .arguments import TrainingArguments

SAMPLES_PER_STEP, SAMPLES_PER_EPOCH, PROCESSES = "samples_per_step", "samples_per_epoch", "processes"
DEFAULT_STEPS = 1000


def known_steps(arguments: TrainingArguments) -> int | None:
    """Return the number of steps of a run, or `None` if it depends on the number of samples per epoch."""
    if arguments.num_train_epochs and not arguments.max_train_steps:
        return None
    return arguments.max_train_steps or DEFAULT_STEPS


@dataclass(frozen=True)
class Schedule:
    """The steps of a run.

    Attributes:
        step_samples: samples per optimizer step, over all micro-batches and processes.
        first_step: steps already taken by the run that is resumed, else 0.
        total_steps: number of steps at the end of the run.
        validation_steps: number of steps between validation images.
        sizes: numbers, by name, that must be the same in a resumed run.
    """

    step_samples: int
    first_step: int
    total_steps: int
    validation_steps: int
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def plan(
        cls, arguments: TrainingArguments, num_processes: int, first_step: int, epoch_size: Callable[[], int | None]
    ) -> "Schedule":
        """Compute the schedule from the arguments.

        Args:
            epoch_size: returns the number of samples per epoch. It returns `None` or raises an error if the number is
                unknown.

        Raises:
            TwinFlowConfigError: if an option counts epochs, but the number of samples per epoch is unknown.
        """

        def steps_of(epochs: int, name: str) -> int:
            size = epoch_size()
            if size is None:
                raise TwinFlowConfigError(
                    f"{name}={epochs} needs data of known size: set "
                    f"`{'max_train_steps' if name == 'num_train_epochs' else 'validation_steps'}` instead."
                )
            return epochs * -(-size // step_samples)

        step_samples = arguments.train_batch_size * num_processes * arguments.gradient_accumulation_steps
        sizes = {SAMPLES_PER_STEP: step_samples, PROCESSES: num_processes}
        validation_steps = arguments.validation_steps
        if not arguments.streaming and (size := epoch_size()) is not None:
            sizes[SAMPLES_PER_EPOCH] = size
        total_steps = known_steps(arguments)
        if total_steps is None:
            total_steps = steps_of(arguments.num_train_epochs or 1, "num_train_epochs")
        if arguments.validation_epochs:
            validation_steps = steps_of(arguments.validation_epochs, "validation_epochs")
        return cls(step_samples, first_step, total_steps, validation_steps, sizes)

    def step_positions(self, position: int) -> range:
        """Return the positions of all samples in the optimizer step that contains `position`."""
        first = position - position % self.step_samples
        return range(first, first + self.step_samples)
