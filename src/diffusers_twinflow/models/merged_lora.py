"""Train a LoRA on merged weights: the base's plus one adapter. This is faster than PEFT's low-rank branch."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional as F

from .adapter_layers import adapter_layers, bias_of, weight_of
from .merged_copy import is_plain_lora

GROUP_WEIGHTS = 2**26
"""Most weights that are merged at once. The sum is computed in float32, so this bounds the temporary memory."""
DROPPED_BITS = 16
"""Bits of a float32 that a bfloat16 does not have."""


class MergedLora:
    """Merged weights for the LoRA layers of a model, and the switch that makes the layers use them.

    PEFT's layers compute the low-rank branch for every token of every pass. Merging costs as much as a few tokens of one
    pass. With merged weights, a pass without gradient is as fast as the base, and a pass with gradient adds only the
    small products that the gradients of the two factors need.

    A bfloat16 weight is too coarse for the small updates of a LoRA: rounded to the nearest value, most of them would
    have no effect. So sums are rounded up or down by comparing the dropped bits with random numbers that never
    change. The mean over many weights is then exact, and two similar adapters are rounded alike.

    Args:
        model: a model with adapters, see `can_merge`. Its adapter layers become `MergedLoraLinear`, in place.
        trained: name of the adapter that gets gradients.
        compiled: whether to compile the sum of weights and adapter, which then reads and writes memory less often.
    """

    def __init__(self, model: nn.Module, trained: str = "default", compiled: bool = False) -> None:
        if not self.can_merge(model):
            raise ValueError("The adapters cannot be merged for training. Check `MergedLora.can_merge` first.")
        self.is_on = False
        self.add_adapter = torch.compile(_add_adapter, fullgraph=True, dynamic=True) if compiled else _add_adapter
        self.merged: str | None = None
        self.layers: list[MergedLoraLinear] = []
        self.groups: list[_Group] = []
        found: list[Any] = adapter_layers(model)
        for layer in found:
            layer.__class__ = MergedLoraLinear
            vars(layer).update(switch=self, trained_adapter=trained, merged_weight=None)
            self.layers.append(layer)

    @staticmethod
    def can_merge(model: nn.Module) -> bool:
        """Whether the model has adapters, and all are plain LoRAs on linear layers without hooks and quantization."""
        layers = adapter_layers(model)
        return bool(layers) and all(
            is_plain_lora(layer, layer.lora_A)
            and not layer.base_layer._forward_hooks
            and not layer.base_layer._forward_pre_hooks
            for layer in layers
        )

    @torch.no_grad()
    def merge(self, adapter: str) -> None:
        """Merge the base's weights and an adapter with its current values, unless that was the last call inside `used`.

        Args:
            adapter: name of the adapter. Layers without it get the base's weights.
        """
        if self.merged == adapter:
            return
        if not self.groups:
            dithers = _dithers([weight_of(layer.base_layer) for layer in self.layers])
            self.groups = [_Group(layers, self.add_adapter, dithers) for layers in self._grouped()]
        device = weight_of(self.layers[0].base_layer).device
        with torch.autocast(device.type, enabled=False):
            for group in self.groups:
                group.merge(adapter)
        self.merged = adapter

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use the merged weights in passes inside the block. Call `merge` first, and change no weights in the block.

        The backward pass belongs into the block too, because it uses the weights of the forward.
        """
        self.is_on, self.merged = True, None
        try:
            yield
        finally:
            self.is_on, self.merged = False, None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copied layer is an ordinary LoRA layer."""

    def _grouped(self) -> list[list["MergedLoraLinear"]]:
        """Group layers of one shape, because launching a kernel per layer would take longer than merging it."""
        kinds: dict[Any, list[MergedLoraLinear]] = defaultdict(list)
        for layer in self.layers:
            weight = weight_of(layer.base_layer)
            kinds[weight.shape, weight.dtype, weight.device, tuple(layer.r.items())].append(layer)
        groups = []
        for (shape, *_), layers in kinds.items():
            count = max(1, GROUP_WEIGHTS // max(1, shape.numel()))
            groups += [layers[start : start + count] for start in range(0, len(layers), count)]
        return groups


class MergedLoraLinear(LoraLinear):
    """PEFT's LoRA layer, which uses merged weights while a `MergedLora` switches them on.

    Attributes:
        switch: the `MergedLora` of the model; `None` in a copy of the model.
        trained_adapter: name of the adapter that gets gradients.
        merged_weight: the merged weight, once there is one.
    """

    switch: MergedLora | None
    trained_adapter: str
    merged_weight: torch.Tensor | None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the layer as PEFT does, or with its merged weight."""
        if self.switch is None or not self.switch.is_on or self.merged_weight is None:
            return super().forward(x, *args, **kwargs)
        weight, bias = self.merged_weight, bias_of(self.base_layer)
        if not torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        adapter, device = self.trained_adapter, x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        lora_a, lora_b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return _MergedLinear.apply(x.to(dtype), weight, bias, lora_a, lora_b, self.scaling[adapter])


class _MergedLinear(torch.autograd.Function):
    """A linear layer with a merged weight. It computes gradients for its input and for the two low-rank factors."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, lora_a, lora_b)
        ctx.scaling = scaling
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight, lora_a, lora_b = ctx.saved_tensors
        dtype = x.dtype
        gradient = gradient.to(dtype)
        x_gradient = gradient @ weight.to(dtype) if ctx.needs_input_grad[0] else None
        rows, x = gradient.flatten(0, -2), x.flatten(0, -2)
        inner_gradient = rows @ lora_b.to(dtype)
        inner = x @ lora_a.to(dtype).t()
        a_gradient = (inner_gradient.t() @ x).to(lora_a.dtype)
        b_gradient = (rows.t() @ inner).to(lora_b.dtype)
        if ctx.scaling != 1:  # saves two kernels per layer
            a_gradient, b_gradient = a_gradient * ctx.scaling, b_gradient * ctx.scaling
        return x_gradient, None, None, a_gradient, b_gradient, None


class _Group:
    """Layers of one shape and rank, which are merged together."""

    def __init__(
        self,
        layers: list[MergedLoraLinear],
        add_adapter: Callable[..., None],
        dithers: dict[torch.device, torch.Tensor],
    ) -> None:
        self.layers = layers
        self.add_adapter = add_adapter if len(layers) > 1 else _add_adapter  # one layer would need another graph
        weight = weight_of(layers[0].base_layer)
        self.merged = weight.new_empty(len(layers), *weight.shape)
        for layer, merged in zip(layers, self.merged):
            vars(layer)["merged_weight"] = merged.data  # no view for autograd and the compiler
        self.dither: torch.Tensor | None = None
        if weight.dtype == torch.bfloat16:
            self.dither = dithers[weight.device][: weight.numel()].view(weight.shape).data  # no view, as above

    def merge(self, adapter: str) -> None:
        torch.stack([weight_of(layer.base_layer) for layer in self.layers], out=self.merged)
        if adapter not in self.layers[0].lora_A:
            return
        dtype = torch.promote_types(self.merged.dtype, torch.float32)
        lora_a = torch.stack([weight_of(layer.lora_A[adapter]) for layer in self.layers]).to(dtype)
        lora_b = torch.stack([weight_of(layer.lora_B[adapter]) for layer in self.layers]).to(dtype)
        scaling = [layer.scaling[adapter] for layer in self.layers]
        if len(set(scaling)) == 1:
            lora_b *= scaling[0]
        else:
            lora_b *= torch.tensor(scaling, dtype=dtype, device=lora_b.device)[:, None, None]
        self.add_adapter(self.merged, lora_a, lora_b, self.dither)


def _dithers(weights: list[torch.Tensor]) -> dict[torch.device, torch.Tensor]:
    """Return random numbers that never change for each device, enough for its largest bfloat16 weight.

    All weights of a device share them. Numbers for each group would take over a gigabyte, and seconds to draw.
    """
    sizes: dict[torch.device, int] = defaultdict(int)
    for weight in weights:
        if weight.dtype == torch.bfloat16:
            sizes[weight.device] = max(sizes[weight.device], weight.numel())
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(2**DROPPED_BITS, (max(sizes.values(), default=0),), generator=generator, dtype=torch.int32)
    return {device: bits[:size].to(device) for device, size in sizes.items()}


def _add_adapter(
    weights: torch.Tensor, lora_a: torch.Tensor, lora_b: torch.Tensor, dither: torch.Tensor | None
) -> None:
    """Add the products of low-rank factors to weights in place."""
    total = torch.bmm(lora_b, lora_a).add_(weights)
    if dither is not None:
        total.view(torch.int32).add_(dither).bitwise_and_(-(2**DROPPED_BITS))
    weights.copy_(total)


def merged_size(model: nn.Module) -> int:
    """Return the memory that merged weights of a model take, in bytes."""
    weights = [weight_of(layer.get_base_layer()) for layer in adapter_layers(model)]
    return sum(weight.numel() * weight.itemsize for weight in weights)
