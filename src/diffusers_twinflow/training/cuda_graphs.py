"""Replay passes without gradient as CUDA graphs. A replay launches all kernels of a pass at once."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..conditions import Condition, VelocityFunction, VelocityOf
from ..configuration import TwinFlowConfigError
from .arguments import TrainingArguments
from .distributed import shards_parameters, uses_deepspeed

Tensors = Sequence[torch.Tensor]


class Recording(Protocol):
    """A recorded pass. A replay overwrites the output of the one before."""

    def __call__(self, inputs: Tensors) -> torch.Tensor: ...


Recorder = Callable[[Callable[[Tensors], torch.Tensor], Tensors], Recording]


def check_cuda_graphs(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Check that passes of this run can be recorded.

    Raises:
        TwinFlowConfigError: if `cuda_graphs` is on and they cannot.
    """
    reasons = {
        "this run is not on a CUDA device": accelerator.device.type != "cuda",
        "the weights are sharded": shards_parameters(accelerator),
        "DeepSpeed moves the weights": uses_deepspeed(accelerator),
        "`offload_ema` moves the weights": args.offload_ema,
        "a recorded pass draws other dropout masks (`lora_dropout`)": args.lora_dropout > 0,
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if args.cuda_graphs and found:
        raise TwinFlowConfigError(f"`cuda_graphs` cannot be used, because {found[0]}. Leave it out.")


class CudaGraphRecorder:
    """Records passes as CUDA graphs. All graphs share one memory pool, so they must be replayed one after another."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.stream: Any = None

    def __call__(self, run: Callable[[Tensors], torch.Tensor], inputs: Tensors) -> Recording:
        """Record `run` at inputs like these, after one pass on the stream of the recording."""
        if self.pool is None:
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(inputs[0].device)
        own = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            run(own)
        torch.cuda.current_stream().wait_stream(self.stream)
        # A graph must neither read weights that autocast has cast before, nor leave those that it casts to other passes.
        torch.clear_autocast_cache()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            output = run(own)
        torch.clear_autocast_cache()

        def replay(inputs: Tensors) -> torch.Tensor:
            torch._foreach_copy_(own, list(inputs))
            graph.replay()
            return output

        return replay


class ReplayedPasses:
    """Records the passes without gradient of velocity functions, and replays them for inputs of the same shapes.

    The first pass of each shape runs as usual, which also compiles what is compiled. The second one is recorded. Weights
    may change in place. If they move, passes are recorded again.

    Args:
        record: records a pass.
        velocity_of: turns a model into the velocity function whose passes are recorded.
        most: maximum number of recordings. Passes of further shapes run as usual.
    """

    def __init__(self, record: Recorder, velocity_of: VelocityOf, most: int = 64) -> None:
        self.record, self.velocity_of, self.most = record, velocity_of, most
        self.seen: set[Hashable] = set()
        self.recordings: dict[Hashable, Recording] = {}

    def velocity(self, model: nn.Module) -> VelocityFunction:
        """Return the velocity function of a model with replayed passes. Its passes with gradient run as usual."""
        velocity, weights = self.velocity_of(model), list(model.parameters())
        ends = [weights[0], weights[-1]]

        def replayed(
            x: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            if torch.is_grad_enabled():
                return velocity(x, t, r, sign, condition)
            leaves, structure = tree_flatten((x, t, r, sign, condition))
            where = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
            inputs = [leaves[index] for index in where]

            def run(tensors: Tensors) -> torch.Tensor:
                filled = list(leaves)
                for index, tensor in zip(where, tensors):
                    filled[index] = tensor
                return velocity(*tree_unflatten(filled, structure))

            addresses = tuple(weight.data_ptr() for weight in ends)
            shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
            autocast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
            key = (velocity, structure, addresses, shapes, autocast)
            return self._passed(key, run, inputs)

        return replayed

    def _passed(self, key: Hashable, run: Callable[[Tensors], torch.Tensor], inputs: Tensors) -> torch.Tensor:
        if key not in self.recordings:
            if key not in self.seen or len(self.recordings) == self.most:
                self.seen.add(key)
                return run(inputs)
            self.recordings[key] = self.record(run, inputs)
        return self.recordings[key](inputs).clone()
