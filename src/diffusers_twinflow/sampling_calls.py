"""The sampling call in progress in each thread: how a transformer learns the target time of a step.

A pipeline calls its transformer with a timestep alone, and only its scheduler knows the target time. So the scheduler
announces each grid here, and a transformer that is called without a target asks here. Neither knows the other: the link
is made by the call itself, and no component needs to be linked when pipelines share, copy or load it.

One case is left open. A call that is interrupted before its last step, on a scheduler that stays alive, is still in
progress for its thread. If a pipeline with another scheduler then calls the same transformer at exactly the time that
the interrupted call had reached, that step gets a target. `only_own_calls` closes this case for the calls it wraps.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch

EXACT, ROUNDED = 1e-4, 2**-8
SMALLEST_SIZE = 64


class SamplingCall:
    """The grid of one sampling call and the step it has reached.

    Args:
        times: times of the model's evaluations, shape [N], in [0, 1] with 1 at noise.
        targets: the time each evaluation aims at, of the same shape and unit.
    """

    def __init__(self, times: torch.Tensor, targets: torch.Tensor) -> None:
        self.step_count = len(times)
        self.in_progress = True
        # Grids of usual lengths have one shape, so that torch.compile makes one graph for all of them.
        size = max(SMALLEST_SIZE, 1 << (self.step_count - 1).bit_length())
        nowhere = torch.full((size - self.step_count,), torch.inf, dtype=times.dtype, device=times.device)
        times, self._targets = torch.cat([times, nowhere]), torch.cat([targets, nowhere])
        self._differs = self._targets != times
        # Row 0 allows every time of the grid, and row i + 1 that of evaluation i alone.
        only_one = torch.where(torch.eye(size, dtype=torch.bool, device=times.device), times, torch.inf)
        self._allowed_times = torch.cat([times[None], only_one, torch.full_like(times, torch.inf)[None]])
        self._allowed = self._allowed_times[0]

    def move_to(self, index: int) -> None:
        """Say which evaluation comes next; after the last one the call is over."""
        self._allowed = self._allowed_times[index + 1]
        self.in_progress = index < self.step_count

    def target_of(self, time: torch.Tensor, *, is_rounded: bool) -> torch.Tensor:
        """The target of these times, without a host sync; the time itself if it is not the time of the next evaluation.

        Before the first step of a call that may start anywhere, every time of the grid counts.

        Args:
            time: shape [B], in [0, 1] with 1 at noise.
            is_rounded: whether the time was cast to half precision or to an integer on its way.
        """
        times, targets, differs = (tensor.to(time.device) for tensor in (self._allowed, self._targets, self._differs))
        distance, nearest = (time.unsqueeze(-1) - times).abs().min(-1)
        found = (distance <= (ROUNDED if is_rounded else EXACT)) & differs[nearest]
        return torch.where(found, targets[nearest].to(time.dtype), time)


class _Calls:
    """The calls of one thread, the latest last."""

    def __init__(self) -> None:
        self.references: list[weakref.ref] = []


class _ThreadCalls(threading.local):
    """Only read in code that torch.compile may trace; see `CallState` of the models."""

    def __init__(self) -> None:
        self.calls = _Calls()


_THREAD = _ThreadCalls()


def begin_sampling(call: SamplingCall) -> None:
    """Make this the thread's sampling call until its last step; an outer call that is not done goes on after it.

    Only a weak reference is held: the call ends when its scheduler is gone or gets another grid.
    """
    calls = _THREAD.calls
    alive = [reference for reference in calls.references if (outer := reference()) is not None and outer.in_progress]
    calls.references = [*alive, weakref.ref(call)]


def current_sampling_call() -> SamplingCall | None:
    """The innermost sampling call of this thread that is not done."""
    for reference in reversed(_THREAD.calls.references):
        call = reference()
        if call is not None and call.in_progress:
            return call
    return None


@contextmanager
def only_own_calls() -> Iterator[None]:
    """Within the block no outer sampling call counts, and what is begun inside ends with it, also after an error."""
    calls = _THREAD.calls
    outer, calls.references = calls.references, []
    try:
        yield
    finally:
        calls.references = outer
