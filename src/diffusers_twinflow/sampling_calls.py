"""The current sampling call of each thread, from which a transformer gets the target time of a step.

A pipeline calls its transformer with only a timestep, and only its scheduler knows the target time. So the scheduler
registers each grid here, and a transformer that is called without a target looks here. The two need no reference to
each other, so nothing must be linked again if pipelines share, copy or load them.

There is one limitation. If a sampling call is interrupted before its last step and its scheduler stays alive, the call
is still the current one of its thread. If a pipeline with another scheduler then calls the same transformer at exactly
the time of the interrupted step, that step gets a target. `only_own_calls` prevents this for the calls in its block.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch

EXACT, ROUNDED = 1e-4, 2**-8
SMALLEST_SIZE = 64


class SamplingCall:
    """The grid of one sampling call and its next step.

    Args:
        times: times of the model's evaluations, shape [N], in [0, 1] with 1 at noise.
        targets: target time of each evaluation, of the same shape and unit.
    """

    def __init__(self, times: torch.Tensor, targets: torch.Tensor) -> None:
        self.step_count = len(times)
        self.in_progress = True
        # Pad short grids to one shape, so that torch.compile builds one graph for all of them.
        size = max(SMALLEST_SIZE, 1 << (self.step_count - 1).bit_length())
        nowhere = torch.full((size - self.step_count,), torch.inf, dtype=times.dtype, device=times.device)
        times, self._targets = torch.cat([times, nowhere]), torch.cat([targets, nowhere])
        self._differs = self._targets != times
        # Row 0 allows every time of the grid, and row i + 1 allows only the time of evaluation i.
        only_one = torch.where(torch.eye(size, dtype=torch.bool, device=times.device), times, torch.inf)
        self._allowed_times = torch.cat([times[None], only_one, torch.full_like(times, torch.inf)[None]])
        self._allowed = self._allowed_times[0]

    def move_to(self, index: int) -> None:
        """Set the next evaluation. An index after the last evaluation ends the call."""
        self._allowed = self._allowed_times[index + 1]
        self.in_progress = index < self.step_count

    def target_of(self, time: torch.Tensor, *, is_rounded: bool) -> torch.Tensor:
        """Return the target of each time, or the time itself if it is not the time of the next evaluation.

        Before the first step every time of the grid matches, because a call may start anywhere. There is no host sync.

        Args:
            time: shape [B], in [0, 1] with 1 at noise.
            is_rounded: whether the time was cast to half precision or to an integer before.
        """
        times, targets, differs = (tensor.to(time.device) for tensor in (self._allowed, self._targets, self._differs))
        distance, nearest = (time.unsqueeze(-1) - times).abs().min(-1)
        found = (distance <= (ROUNDED if is_rounded else EXACT)) & differs[nearest]
        return torch.where(found, targets[nearest].to(time.dtype), time)


class _Calls:
    """The sampling calls of one thread, the latest last."""

    def __init__(self) -> None:
        self.references: list[weakref.ref] = []


class _ThreadCalls(threading.local):
    """Stores the sampling calls per thread. Its attribute is never set again, for the reason given in `CallState`."""

    def __init__(self) -> None:
        self.calls = _Calls()


_THREAD = _ThreadCalls()


def begin_sampling(call: SamplingCall) -> None:
    """Make this the thread's current sampling call until its last step. An unfinished outer call continues after it.

    Only a weak reference is stored, so the call ends if its scheduler is deleted or gets another grid.
    """
    calls = _THREAD.calls
    alive = [reference for reference in calls.references if (outer := reference()) is not None and outer.in_progress]
    calls.references = [*alive, weakref.ref(call)]


def current_sampling_call() -> SamplingCall | None:
    """Return the latest unfinished sampling call of this thread; `None` if there is none."""
    for reference in reversed(_THREAD.calls.references):
        call = reference()
        if call is not None and call.in_progress:
            return call
    return None


@contextmanager
def only_own_calls() -> Iterator[None]:
    """Ignore outer sampling calls within the block, and end the calls that begin inside it, also after an error."""
    calls = _THREAD.calls
    outer, calls.references = calls.references, []
    try:
        yield
    finally:
        calls.references = outer
