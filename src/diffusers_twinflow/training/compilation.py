"""Compile the repeated blocks of a transformer. This takes seconds; compiling the whole model takes minutes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.utils._pytree import tree_map_only

from ..models import TwinFlowTransformerMixin

GRAPHS_A_BLOCK = 32


def compile_blocks(transformer: ModelMixin, backend: str = "inductor") -> int:
    """Compile each block of the classes in the model's `_no_split_modules`, in place.

    Equal blocks share up to three graphs: student and teacher without gradient (one graph if a LoRA is merged), and
    student with gradient. The batch size may change without a new compilation. Other sizes are fixed until they change.
    Copies of the transformer are compiled too.

    Returns:
        The number of compiled blocks.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS_A_BLOCK)
    stock = transformer.stock_class() if isinstance(transformer, TwinFlowTransformerMixin) else type(transformer)
    block_names: set[str] = set(stock._no_split_modules or ())
    blocks = [module for module in transformer.modules() if type(module).__name__ in block_names]
    kinds: set[Any] = {type(block) for block in blocks}
    compiled = {kind: torch.compile(kind.forward, fullgraph=True, backend=backend) for kind in kinds}
    for block in blocks:
        # Unlike the result of `block.compile`, a partial is copied with its block, and the copy calls the copied block.
        block.forward = partial(run_compiled, compiled[type(block)], block)
    return len(blocks)


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


def run_compiled(forward: Callable[..., Any], block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a block's compiled forward with a dynamic batch size, which is the first dimension of each tensor."""
    return forward(
        block, *map(_with_any_batch, args), **{name: _with_any_batch(value) for name, value in kwargs.items()}
    )


def _with_any_batch(value: Any) -> Any:
    """Mark the batch dimension of all tensors in an argument. Plain tensors skip `tree_map`, which is slow."""
    if isinstance(value, torch.Tensor):
        return _as_any_batch(value)
    return value if value is None else tree_map_only(torch.Tensor, _as_any_batch, value)


def _as_any_batch(tensor: torch.Tensor) -> torch.Tensor:
    """Mark a tensor's batch dimension as dynamic. Views are cloned, because the compiler makes another graph for them."""
    tensor = tensor.clone() if tensor._is_view() else tensor
    if tensor.ndim > 1:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor
