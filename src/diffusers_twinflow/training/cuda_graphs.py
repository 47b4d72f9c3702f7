"""Record passes as CUDA graphs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate import Accelerator

from ..configuration import TwinFlowConfigError
from ..families import Family
from .arguments import TrainingArguments
from .distributed import shards_parameters, uses_deepspeed
from .replayed_passes import GradientRecording, Pass, Recording, Tensors, gradients_of


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


def check_recorded_family(args: TrainingArguments, family: Family) -> None:
    """Check that passes of a family's model can be recorded. Derived families know it when they know their prompts.

    Raises:
        TwinFlowConfigError: if `cuda_graphs` is on and a pass reads values on the CPU.
    """
    if args.cuda_graphs and family.reads_conditions:
        raise TwinFlowConfigError(
            f"`cuda_graphs` cannot be used with {family.pipeline_class.__name__}, because each pass needs numbers on the "
            "CPU, such as the lengths of the prompts. Leave it out."
        )


def reason_against_gradients(args: TrainingArguments, is_wrapped: bool) -> str | None:
    """Return why passes with gradient cannot be recorded in a run with `cuda_graphs`; `None` if they can.

    Args:
        args: the arguments.
        is_wrapped: whether the student is wrapped for several processes.
    """
    reasons = {
        "the processes exchange gradients during the backward pass": is_wrapped,
        "`gradient_checkpointing` reads the state of the random generator in each pass": args.gradient_checkpointing,
        "the base is quantized": args.quantize_base is not None,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


class CudaGraphRecorder:
    """Records passes as CUDA graphs.

    The graphs without gradient share one memory pool, so they must be replayed one after another. The graphs with
    gradient share another pool, because passes without gradient may be replayed between a forward and its backward.
    """

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream | None = None
        self.pools: dict[bool, Any] = {}

    def without_gradient(self, run: Pass, inputs: Tensors) -> Recording:
        """Record `run` at inputs like these, after one pass on the stream of the recording."""
        own = self._own(inputs)
        with self._on_stream():
            run(own)
        graph = torch.cuda.CUDAGraph()
        # A graph must neither read weights that autocast has cast before, nor leave those that it casts to other passes.
        torch.clear_autocast_cache()
        with self._captured(graph, has_gradient=False):
            output = run(own)
        torch.clear_autocast_cache()

        def replay(inputs: Tensors) -> torch.Tensor:
            torch._foreach_copy_(own, list(inputs))
            graph.replay()
            return output

        return replay

    def with_gradient(self, run: Pass, inputs: Tensors, weights: Tensors) -> GradientRecording:
        """Record the forward and backward pass of `run`, after one of each on the stream of the recording."""
        own = self._own(inputs)
        torch.clear_autocast_cache()  # so that all work of the backward pass is on the stream of the recording
        with self._on_stream():
            output = run(own)
            gradients_of(output, weights, torch.zeros_like(output))
        del output
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()
        with self._captured(forward, has_gradient=True):
            output = run(own)
        gradient = torch.zeros_like(output)
        with self._captured(backward, has_gradient=True):
            gradients = gradients_of(output, weights, gradient)
        torch.clear_autocast_cache()
        return _GradientGraphs(own, forward, output.detach(), backward, gradient, gradients)

    def _own(self, inputs: Tensors) -> list[torch.Tensor]:
        """Copy the inputs to memory that stays where it is."""
        return [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in inputs]

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        if self.stream is None:
            self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def _captured(self, graph: torch.cuda.CUDAGraph, has_gradient: bool) -> AbstractContextManager[None]:
        if has_gradient not in self.pools:
            self.pools[has_gradient] = torch.cuda.graph_pool_handle()
        pool = self.pools[has_gradient]
        return torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local")


class _GradientGraphs:
    """A forward and a backward pass as CUDA graphs."""

    def __init__(
        self,
        inputs: list[torch.Tensor],
        forward: torch.cuda.CUDAGraph,
        output: torch.Tensor,
        backward: torch.cuda.CUDAGraph,
        gradient: torch.Tensor,
        gradients: list[torch.Tensor | None],
    ) -> None:
        self.inputs, self.forward_graph, self.output = inputs, forward, output
        self.backward_graph, self.gradient, self.gradients = backward, gradient, gradients

    def forward(self, inputs: Tensors) -> torch.Tensor:
        torch._foreach_copy_(self.inputs, list(inputs))
        self.forward_graph.replay()
        return self.output

    def backward(self, gradient: torch.Tensor) -> None:
        self.gradient.copy_(gradient)
        self.backward_graph.replay()
