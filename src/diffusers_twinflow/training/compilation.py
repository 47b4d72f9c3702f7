"""Compiling the repeated blocks of a transformer, which costs seconds where the whole model costs minutes."""

import torch
from diffusers.models.modeling_utils import ModelMixin

from ..models import TwinFlowTransformerMixin

GRAPHS_A_BLOCK = 32


def compile_blocks(transformer: ModelMixin, backend: str = "inductor") -> int:
    """Compile, in place, each block of the classes in the model's `_no_split_modules`; returns how many.

    A block has a graph for each of student and teacher, with and without gradient, and sizes of a batch are dynamic.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS_A_BLOCK)
    stock = transformer.stock_class() if isinstance(transformer, TwinFlowTransformerMixin) else type(transformer)
    block_names = set(stock._no_split_modules or ())
    blocks = [module for module in transformer.modules() if type(module).__name__ in block_names]
    for block in blocks:
        block.compile(fullgraph=True, dynamic=True, backend=backend)
    return len(blocks)
