"""Record passes of a model and replay them. A replay launches all kernels of a pass at once."""

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..conditions import Condition, VelocityFunction, VelocityOf
from ..nested import map_tensors, tensors

Tensors = Sequence[torch.Tensor]
Pass = Callable[[Tensors], torch.Tensor]


class Recording(Protocol):
    """A recorded pass without gradient. A replay overwrites the output of the one before."""

    def __call__(self, inputs: Tensors) -> torch.Tensor: ...


class GradientRecording(Protocol):
    """A recorded pass with gradient. A replay, also only of the forward, overwrites the results of all replays before.

    Attributes:
        gradients: the gradient of each weight after `backward`; `None` for weights that the pass does not use.
    """

    gradients: list[torch.Tensor | None]

    def forward(self, inputs: Tensors) -> torch.Tensor: ...

    def backward(self, gradient: torch.Tensor) -> None: ...


class Recorder(Protocol):
    """Records a pass at inputs like the given ones."""

    def without_gradient(self, run: Pass, inputs: Tensors) -> Recording: ...

    def with_gradient(self, run: Pass, inputs: Tensors, weights: Tensors) -> GradientRecording: ...


class ReplayedPasses:
    """Records the passes of velocity functions, and replays them for inputs of the same shapes.

    The first pass of each shape runs as usual, which also compiles what is compiled. The second one is recorded. Weights
    may change in place. If they move, passes are recorded again.

    Args:
        recorder: records a pass.
        velocity_of: turns a model into the velocity function whose passes are recorded.
        state: returns what else decides how a pass runs, such as whether merged weights are used.
        most: maximum number of recordings without gradient. Passes of further shapes run as usual.
        most_with_gradient: the same for passes with gradient. Each recording has memory for all gradients.
    """

    def __init__(
        self,
        recorder: Recorder,
        velocity_of: VelocityOf,
        state: Callable[[], Hashable] = lambda: None,
        most: int = 64,
        most_with_gradient: int = 4,
    ) -> None:
        self.recorder, self.velocity_of, self.state = recorder, velocity_of, state
        self.most, self.most_with_gradient = most, most_with_gradient
        self.seen: set[Hashable] = set()
        self.recordings: dict[Hashable, Recording] = {}
        self.gradient_recordings: dict[Hashable, tuple[GradientRecording, list[nn.Parameter]]] = {}
        self.awaited: Callable[[], _AwaitedBackward | None] = lambda: None

    def velocity(self, model: nn.Module) -> VelocityFunction:
        """Return the velocity function of a model with replayed passes. Its passes with gradient run as usual."""
        return self._replayed(model, self.velocity_of(model))

    def velocity_with_gradient(self, model: nn.Module) -> VelocityFunction:
        """Return the velocity function of a model whose passes with gradient are replayed, forward and backward.

        Only the weights get gradients. A pass runs as usual if an input needs a gradient, or if an earlier pass with
        gradient waits for its backward pass.
        """
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        return self._replayed(model, self.velocity_of(model), weights)

    def _replayed(
        self, model: nn.Module, velocity: VelocityFunction, trained: list[nn.Parameter] | None = None
    ) -> VelocityFunction:
        weights = list(model.parameters())
        ends = [weights[0], weights[-1]]

        def replayed(
            x: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            has_gradient = torch.is_grad_enabled()
            if has_gradient and trained is None:
                return velocity(x, t, r, sign, condition)
            arguments = x, t, r, sign, condition
            inputs = list(tensors(arguments))

            def run(inputs: Tensors) -> torch.Tensor:
                remaining = iter(inputs)
                return velocity(*map_tensors(lambda _: next(remaining), arguments))

            addresses = tuple(weight.data_ptr() for weight in ends)
            shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
            autocast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
            given = r is not None, sign is not None, *condition
            key = (velocity, given, addresses, shapes, autocast, has_gradient, self.state())
            if has_gradient and trained is not None:
                return self._passed_with_gradient(key, run, inputs, model, trained)
            return self._passed(key, run, inputs)

        return replayed

    def _passed(self, key: Hashable, run: Pass, inputs: Tensors) -> torch.Tensor:
        if key not in self.recordings:
            if key not in self.seen or len(self.recordings) == self.most:
                self.seen.add(key)
                return run(inputs)
            self.recordings[key] = self.recorder.without_gradient(run, inputs)
        return self.recordings[key](inputs).clone()

    def _passed_with_gradient(
        self, key: Hashable, run: Pass, inputs: Tensors, model: nn.Module, weights: list[nn.Parameter]
    ) -> torch.Tensor:
        if self.awaited() is not None or any(tensor.requires_grad for tensor in inputs):
            return run(inputs)
        recordings = self.gradient_recordings
        if key not in recordings:
            if key not in self.seen or len(recordings) == self.most_with_gradient:
                self.seen.add(key)
                return run(inputs)
            aliased, aliases = _with_aliases(run, model, weights)
            recordings[key] = self.recorder.with_gradient(aliased, inputs, aliases), weights
        for recording, trained in recordings.values():
            _move_gradients(recording, trained)
        backward = _AwaitedBackward(recordings[key][0])
        self.awaited = weakref.ref(backward)
        return _ReplayedPass.apply(backward, inputs, *weights)


def _with_aliases(run: Pass, model: nn.Module, weights: list[nn.Parameter]) -> tuple[Pass, list[nn.Parameter]]:
    """Return a pass that uses other parameters in the memory of a model's weights, and these parameters.

    The autograd node that collects the gradient of a weight belongs to the stream of the pass that created it. It lives
    as long as the graph of such a pass, for example of a loss that is kept. A recording on another stream fails with
    this node. The other parameters have nodes of their own.
    """
    aliases = [nn.Parameter(weight.detach()) for weight in weights]
    alias_of = dict(zip(map(id, weights), aliases))
    places = [
        (module, name, weight, alias_of[id(weight)])
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(weight) in alias_of
    ]

    def aliased(inputs: Tensors) -> torch.Tensor:
        try:
            for module, name, _, alias in places:
                setattr(module, name, alias)
            return run(inputs)
        finally:
            for module, name, weight, _ in places:
                setattr(module, name, weight)

    return aliased, aliases


def _move_gradients(recording: GradientRecording, weights: list[nn.Parameter]) -> None:
    """Move gradients of earlier micro-batches out of the memory of a recording, which the next replay overwrites."""
    for weight, own in zip(weights, recording.gradients):
        if weight.grad is not None and own is not None and weight.grad.data_ptr() == own.data_ptr():
            weight.grad = weight.grad.clone()


class _AwaitedBackward:
    """The backward pass of a replayed forward. It exists until it has run, or until nothing can run it any more."""

    def __init__(self, recording: GradientRecording) -> None:
        self.recording = recording

    def run(self, gradient: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the gradients of the weights. They become the weights' `grad` without a copy."""
        self.recording.backward(gradient)
        return [None if own is None else own.detach() for own in self.recording.gradients]


class _ReplayedPass(torch.autograd.Function):
    """A replayed forward pass, whose backward pass is also replayed."""

    @staticmethod
    def forward(
        ctx: Any, backward: _AwaitedBackward, inputs: list[torch.Tensor], *weights: torch.Tensor
    ) -> torch.Tensor:
        ctx.awaited = backward
        return backward.recording.forward(inputs).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        awaited, ctx.awaited = ctx.awaited, None
        if awaited is None:
            raise RuntimeError(
                "The backward pass of a replayed pass can run only once. Leave out `cuda_graphs` to run it again."
            )
        return None, None, *awaited.run(gradient)


def gradients_of(output: torch.Tensor, weights: Tensors, gradient: torch.Tensor) -> list[torch.Tensor | None]:
    """Return the gradient of each weight, for the gradient of a pass's output. No two of them share memory."""
    found = torch.autograd.grad(output, list(weights), gradient, allow_unused=True)
    addresses: set[int] = {gradient.data_ptr()}
    apart: list[torch.Tensor | None] = []
    for each in found:
        if each is not None:
            each = each.clone() if each.data_ptr() in addresses else each
            addresses.add(each.data_ptr())
        apart.append(each)
    return apart
