"""Define the interface of training data, and use latents and conditions that are already encoded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from accelerate import Accelerator, PartialState
from torch.utils.data import default_collate

from ..conditions import Condition, send
from ..configuration import TwinFlowConfigError
from .sampler import RunSampler

Batch = dict[str, Any]
LATENTS, CONDITION = "latents", "condition"

PART_WEIGHTS = "part_weights"
"""Name of the weights in the loss of the parts of each sample of a batch, shape [B, parts], such as a video and its sound."""


@runtime_checkable
class Batches(Protocol):
    """The micro-batches of a run.

    Each has the positions of its samples in the run under "position". It may have the weights of the parts of its samples in
    the loss under "part_weights", shape [B, parts].
    """

    def epoch_size(self) -> int | None:
        """Return the number of samples per epoch. Returns `None` or raises an error if it is unknown."""

    def loader(self, *, first_position: int, last_position: int, step_samples: int) -> Iterable[Batch]:
        """Return the micro-batches of this process between two positions of the run, multiples of `step_samples`."""

    def read(self, batch: Batch) -> tuple[torch.Tensor, Condition]:
        """Return the latents of a batch, shape [B, ...], and its condition, on the device (see `conditions.send`)."""

    def read_unconditional(self, batch: Batch) -> Condition | None:
        """Return the condition of the empty prompt for each sample of a batch, or `None` if it is the same for all."""

    def unconditional(self) -> Condition | None:
        """Return the condition of the empty prompt with batch size 1, or `None` if it differs between samples."""

    def with_encoders(self) -> AbstractContextManager[Any]:
        """Return a context in which the encoders are on the device, for generating images during training."""

    def register(self, accelerator: Accelerator) -> None:
        """Register what checkpoints must contain for resuming, besides the position."""


class LatentBatches:
    """Uses latents and conditions that are already encoded as the batches of a run.

    Args:
        samples: one of:

            - a sequence of samples `{"latents": [...], "condition": {name: [...]}}` without a batch dimension. It is
              shuffled again for each epoch. Samples of several parts, such as a video and its sound, may also have
              `"part_weights"`, the weight of each part in the loss.
            - an iterable of such batches with a batch dimension of `batch_size`. It is read in order, and again from
              the start when it ends. With several processes, the iterable must yield different batches per process.
        empty_condition: condition of the empty prompt with batch size 1. Needed if the method uses guidance.
        seed: seed of the run.
        batch_size: number of samples per micro-batch and process.

    Raises:
        TwinFlowConfigError: during training, if a batch has a different size, the iterable cannot be read again, or
            `empty_condition` is missing.

    Examples:
        >>> LatentBatches([{"latents": latents, "condition": {"encoder_hidden_states": embeds}}], batch_size=1, seed=0)
    """

    def __init__(
        self,
        samples: Sequence[Batch] | Iterable[Batch],
        *,
        seed: int,
        batch_size: int,
        empty_condition: Condition | None = None,
        processes: PartialState | None = None,
    ) -> None:
        check_samples(samples)
        if empty_condition is not None and _is_sequence(samples):
            _check_names(empty_condition, samples[0][CONDITION], "empty_condition")
        self.samples, self.empty_condition = samples, empty_condition
        self.seed, self.batch_size, self.processes = seed, batch_size, processes or PartialState()

    def epoch_size(self) -> int | None:
        return len(self.samples) if _is_sequence(self.samples) else None

    def loader(self, *, first_position: int, last_position: int, step_samples: int) -> Iterator[Batch]:
        own = {"process_index": self.processes.process_index, "num_processes": self.processes.num_processes}
        if _is_sequence(self.samples):
            sampler = RunSampler(
                len(self.samples),
                self.seed,
                first_position,
                last_position,
                group_size=step_samples,
                batch_size=self.batch_size,
                **own,
            )
            yield from self._shuffled(self.samples, sampler)
        else:
            yield from self._in_order(first_position, last_position, **own)

    def _shuffled(self, samples: Sequence[Batch], sampler: RunSampler) -> Iterator[Batch]:
        places = []
        for place in sampler:
            places.append(place)
            if len(places) == self.batch_size:
                batch = _collate([samples[each.sample] for each in places], [each.sample for each in places])
                yield batch | {"position": [each.position for each in places]}
                places = []

    def _in_order(
        self, first_position: int, last_position: int, process_index: int, num_processes: int
    ) -> Iterator[Batch]:
        stride = self.batch_size * num_processes
        batches = self._endless(first_position // stride)
        for start in range(first_position + process_index * self.batch_size, last_position, stride):
            batch = next(batches)
            _check_sample(batch)
            if len(batch["latents"]) != self.batch_size:
                raise TwinFlowConfigError(
                    f"train_batch_size={self.batch_size}, but a batch of the data has {len(batch['latents'])} samples. "
                    "Make them equal."
                )
            yield batch | {"position": list(range(start, start + self.batch_size))}

    def _endless(self, skipped: int) -> Iterator[Batch]:
        """Yield the batches again and again. Skip the first ones if the run is resumed."""
        number = 0
        while True:
            before = number
            for batch in self.samples:
                number += 1
                if number > skipped:
                    yield batch
            if number == before:
                raise TwinFlowConfigError("The data ended before the run. Pass an iterable that can be read again.")

    def read(self, batch: Batch) -> tuple[torch.Tensor, Condition]:
        return self._sent(batch["latents"]).float(), send(batch["condition"], self.processes.device)

    def read_unconditional(self, batch: Batch) -> Condition | None:
        return None

    def unconditional(self) -> Condition | None:
        if self.empty_condition is None:
            raise TwinFlowConfigError(
                "twinflow_enhanced_ratio is above 0, which needs the condition of the empty prompt. Pass "
                "LatentBatches(..., empty_condition=...) as the data, or set twinflow_enhanced_ratio=0."
            )
        return send(self.empty_condition, self.processes.device)

    def with_encoders(self) -> AbstractContextManager[Any]:
        """Return an empty context, because this data needs no encoders."""
        return nullcontext()

    def register(self, accelerator: Accelerator) -> None:
        """Do nothing, because only the position is needed."""

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.processes.device, non_blocking=True)


def check_samples(data: Any) -> None:
    """Check the first sample of a sequence. Other iterables are checked when they are read.

    Raises:
        TwinFlowConfigError: if the data is a dictionary or empty, or if the sample has no latents or no condition.
    """
    if isinstance(data, Mapping):
        raise TwinFlowConfigError(
            f"The data is a {type(data).__name__} with {', '.join(map(repr, data)) or 'no keys'}: pass one split, or the "
            "samples."
        )
    if data is not None and not isinstance(data, Batches) and _is_sequence(data):
        if not len(data):
            raise TwinFlowConfigError("The data has no samples. Pass at least one.")
        _check_sample(data[0])


def _check_sample(sample: Any) -> None:
    keys = list(sample) if isinstance(sample, Mapping) else None
    if keys is None or not {LATENTS, CONDITION} <= {*keys}:
        found = f"a {type(sample).__name__}" if keys is None else f"a dictionary with {', '.join(map(repr, keys))}"
        raise TwinFlowConfigError(
            f"A sample of the data is {found}, but it must have '{LATENTS}' and '{CONDITION}'. To train on images, pass a "
            "`datasets.Dataset` of images and captions as the data, or set an option such as `instance_data_dir`."
        )


def _check_names(condition: Condition, first: Condition, what: str) -> None:
    if condition.keys() != first.keys():
        raise TwinFlowConfigError(
            f"The condition of {what} has {', '.join(map(repr, condition)) or 'nothing'}, but the first sample "
            f"has {', '.join(map(repr, first)) or 'nothing'}. Give both the same names."
        )


def _collate(samples: Sequence[Batch], numbers: Sequence[int]) -> Batch:
    """Stack samples to a batch.

    Args:
        numbers: number of each sample in the data.

    Raises:
        TwinFlowConfigError: if a sample has other names or shapes than the first one.
    """
    first = samples[0]
    for sample, number in zip(samples, numbers):
        _check_sample(sample)
        _check_names(sample[CONDITION], first[CONDITION], f"sample {number}")
        tensors = {LATENTS: (sample[LATENTS], first[LATENTS])} | {
            name: (tensor, first[CONDITION][name]) for name, tensor in sample[CONDITION].items()
        }
        for name, (tensor, other) in tensors.items():
            if tensor.shape != other.shape:
                raise TwinFlowConfigError(
                    f"'{name}' has the shape {tuple(tensor.shape)} in sample {number}, but {tuple(other.shape)} in sample "
                    f"{numbers[0]}. All samples of a batch must have one shape: change the data, or set "
                    "train_batch_size=1."
                )
    return default_collate(list(samples))


def _is_sequence(samples: Sequence[Batch] | Iterable[Batch]) -> "TypeGuard[Sequence[Batch]]":
    """Return whether samples can be indexed. Datasets of torch can, although they may not be a `Sequence`."""
    return hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
