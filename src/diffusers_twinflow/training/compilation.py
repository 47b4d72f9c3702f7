"""Compiling the repeated blocks of a transformer, which costs seconds where the whole model costs minutes."""

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
    """Compile, in place, each block of the classes in the model's `_no_split_modules`; returns how many.

    Equal blocks share their graphs: one for the student and one for the teacher without gradient, one with gradient.
    Batches may have any size; other sizes are taken as fixed until they change. A copy of the transformer is compiled
    as well.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS_A_BLOCK)
    stock = transformer.stock_class() if isinstance(transformer, TwinFlowTransformerMixin) else type(transformer)
    block_names: set[str] = set(stock._no_split_modules or ())
    blocks = [module for module in transformer.modules() if type(module).__name__ in block_names]
    kinds: set[Any] = {type(block) for block in blocks}
    compiled = {kind: torch.compile(kind.forward, fullgraph=True, backend=backend) for kind in kinds}
    for block in blocks:
        # A partial, unlike what `block.compile` leaves, is copied with the block, and copied to call the copy.
        block.forward = partial(run_compiled, compiled[type(block)], block)
    return len(blocks)


def run_compiled(forward: Callable[..., Any], block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a block's compiled forward with batches of any size, which is the first dimension of what it gets."""
    return forward(
        block, *map(_with_any_batch, args), **{name: _with_any_batch(value) for name, value in kwargs.items()}
    )


def _with_any_batch(value: Any) -> Any:
    """An argument with its tensors as of any batch; `tree_map` takes long, and most arguments are a plain tensor."""
    if isinstance(value, torch.Tensor):
        return _as_any_batch(value)
    return value if value is None else tree_map_only(torch.Tensor, _as_any_batch, value)


def _as_any_batch(tensor: torch.Tensor) -> torch.Tensor:
    """No view, as the first block gets and the others do not: for the compiler it would take a graph of its own."""
    tensor = tensor.clone() if tensor._is_view() else tensor
    if tensor.ndim > 1:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor
