"""Classes that run by default; the others carry the marker `slow`."""

from collections.abc import Iterable

import pytest

REPRESENTATIVES = {
    "AnyFlowTransformer3DModel",  # a target time of its own
    "CosmosTransformer3DModel",  # the embedder ends in a norm
    "FluxTransformer2DModel",  # time from 0 to 1, scaled in the forward
    "GlmImageTransformer2DModel",  # times from 999 to -1
    "HunyuanVideoTransformer3DModel",  # two embedders, a second call for another time
    "Krea2Transformer2DModel",  # an embedder with an argument of its own
    "PRXTransformer2DModel",  # times projected by a function
    "QwenImageTransformer2DModel",  # rows that follow the batch's own
    "SD3Transformer2DModel",
    "SanaTransformer2DModel",
    "UNet2DConditionModel",
    "WanTransformer3DModel",  # video, a time per token
    "ZImageTransformer2DModel",  # reversed time, the embedder takes times
}


def by_weight(names: Iterable[str]) -> list:
    """Names of classes as parameters of a test."""
    return [name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.slow) for name in names]
