"""Compile the repeated blocks of a transformer. This takes seconds; compiling the whole model takes minutes."""

from collections import Counter
from collections.abc import Hashable
from functools import partial
from inspect import signature
from types import FunctionType
from typing import Any

import torch
import torch._dynamo.utils
import torch._functorch.config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..conditions import Condition, VelocityFunction, VelocityOf
from ..methods.rng_snapshot import RNGSnapshot
from ..models import TwinFlowTransformerMixin
from ..models.known_times import known_times_twice
from ..nested import map_tensors, tensors

GRAPHS_A_BLOCK = 32
UNIQUE_SHARE = 1 / 12
"""Largest share of blocks that are not compiled, because no other block is like them. Compiling them gains little."""
INDUCTOR_OPTIONS = {"shape_padding": False}
"""Do not time whether matrix products are faster padded. This takes seconds, and only products with an odd number of tokens
are timed, which are as fast without padding."""


def start_compiler() -> None:
    """Start the processes that compile kernels. They take seconds to be ready, so start them while the base loads."""
    from torch._inductor.async_compile import maybe_warm_pool  # here, because the import takes a second

    maybe_warm_pool()


def compile_blocks(transformer: ModelMixin, backend: str = "inductor") -> int:
    """Compile the blocks of the classes in the model's `_no_split_modules` or else `_repeated_blocks`, in place.

    Blocks that differ from all others, such as the last one of Stable Diffusion 3, are not compiled if they are few.

    Equal blocks share up to three graphs: student and teacher without gradient (one graph if a LoRA is merged), and
    student with gradient. Copies of the transformer are compiled too.

    Passes without gradient may change their batch size without a new compilation, except that a single sample has its own
    graphs (see `with_single_samples_twice`). A change of another size, or of the batch size of passes with gradient, compiles
    again: compiling a pass with gradient takes several times as long if its batch size may change.

    Returns:
        The number of compiled blocks.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS_A_BLOCK)
    torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True  # such as a merged LoRA layer's
    stock = transformer.stock_class() if isinstance(transformer, TwinFlowTransformerMixin) else type(transformer)
    block_names: set[str] = set(stock._no_split_modules or stock._repeated_blocks or ())
    blocks = _without_unique([module for module in transformer.modules() if type(module).__name__ in block_names])
    kinds: set[Any] = {type(block) for block in blocks}
    compiled = {kind: CompiledForward(kind, backend) for kind in kinds}
    for block in blocks:
        # Unlike the result of `block.compile`, a partial is copied with its block, and the copy calls the copied block.
        block.forward = partial(compiled[type(block)], block)
    return len(blocks)


def with_single_samples_twice(velocity_of: VelocityOf) -> VelocityOf:
    """Let passes without gradient run a single sample twice, because the compiler makes other graphs for one sample.

    These graphs would take much longer to compile than the second sample of a pass in some hundred steps.
    """

    def twice(model: nn.Module) -> VelocityFunction:
        velocity = velocity_of(model)

        def run(
            x: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            if torch.is_grad_enabled() or len(x) != 1:
                return velocity(x, t, r, sign, condition)
            doubled = map_tensors(lambda tensor: torch.cat([tensor, tensor]), (x, t, r, sign, condition))
            with known_times_twice(1):
                return velocity(*doubled)[:1]

        return run

    return twice


def compiled_graphs() -> int:
    """Return the number of graphs that this process has compiled so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def share_graphs(student: nn.Module, copy: nn.Module) -> None:
    """Let a copy of a compiled student use the student's graphs, although the copy is only run without gradient.

    The compiler makes other graphs for weights that differ in `requires_grad`, even for passes without gradient, and for
    dropout layers in evaluation mode, even if they drop nothing.
    """
    for weight, own in zip(student.parameters(), copy.parameters()):
        own.requires_grad_(weight.requires_grad)
    for module in copy.modules():
        if isinstance(module, nn.Dropout) and module.p == 0:
            module.train()


class CompiledForward:
    """The compiled forward of a class of blocks. The batch size is the first dimension of each tensor.

    The tokens that enter the first block have no gradient if the layers before it are frozen. As the compiler would make
    other graphs for this block, a gradient that nothing uses is computed for them.
    """

    def __init__(self, kind: type[nn.Module], backend: str) -> None:
        self.eager = kind.forward
        with_gradient = _renamed(kind.forward, f"{kind.__name__}_with_gradient")
        options: Any = INDUCTOR_OPTIONS if backend == "inductor" else None
        self.compiled, self.compiled_with_gradient = (
            torch.compile(forward, fullgraph=True, backend=backend, options=options)
            for forward in (kind.forward, with_gradient)
        )
        self.parameters = list(signature(kind.forward).parameters)[1:]
        self.streams: set[str] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledForward":
        """Share the graphs with the copies of a block."""
        return self

    def __call__(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the compiled forward of a block."""
        named = {**dict(zip(self.parameters, args)), **kwargs}
        if not torch.is_grad_enabled():
            return self.compiled(block, **map_tensors(_as_any_batch, named))
        named |= self._gradients(block, named)
        return self.compiled_with_gradient(block, **map_tensors(_without_view, named))

    def _gradients(self, block: nn.Module, named: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the tokens among the arguments that have no gradient, with one, if the block's outputs have gradients."""
        frozen = {
            name: value
            for name, value in named.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.requires_grad
        }
        if self.streams is not None:
            frozen = {name: frozen[name] for name in self.streams & frozen.keys()}
        if not frozen or not any(parameter.requires_grad for parameter in block.parameters()):
            return {}
        if self.streams is None:
            self.streams = self._find_streams(block, named)
        return {name: frozen[name].detach().requires_grad_() for name in self.streams & frozen.keys()}

    def _find_streams(self, block: nn.Module, named: dict[str, Any]) -> set[str]:
        """Return the names of the arguments that a block passes on to the next one: an output has their shape."""
        with torch.no_grad(), RNGSnapshot(next(block.parameters()).device).replay():
            shapes = {output.shape for output in tensors(self.eager(block, **named))}
        return {name for name, value in named.items() if isinstance(value, torch.Tensor) and value.shape in shapes}


def _without_unique(blocks: list[nn.Module]) -> list[nn.Module]:
    """Leave out the blocks that differ from all others, if they are few."""
    counts = Counter(map(_layout, blocks))
    repeated = [block for block in blocks if counts[_layout(block)] > 1]
    return repeated if len(blocks) - len(repeated) <= UNIQUE_SHARE * len(blocks) else blocks


def _layout(block: nn.Module) -> Hashable:
    """Return the class of a block with the names and shapes of its weights."""
    return type(block), tuple((name, weight.shape) for name, weight in block.named_parameters())


def _renamed(function: Any, name: str) -> FunctionType:
    """Copy a function under another name, because the compiler remembers the changing sizes of functions by their name."""
    code, closure = function.__code__.replace(co_name=name), function.__closure__
    copied = FunctionType(code, function.__globals__, name, function.__defaults__, closure)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _as_any_batch(tensor: torch.Tensor) -> torch.Tensor:
    """Mark a tensor's batch dimension as dynamic."""
    tensor = _without_view(tensor)
    if tensor.ndim > 1:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor


def _without_view(tensor: torch.Tensor) -> torch.Tensor:
    """Clone a tensor if it is a view, because the compiler makes another graph for views."""
    return tensor.clone() if tensor._is_view() else tensor
