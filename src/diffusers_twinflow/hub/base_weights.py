"""Restore the base weights of adapted layers by reading the model's files again."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import nn

from ..models.adapter_layers import AdapterLayer, base_layer, weight_of
from ..models.merged_copy import exact_copy
from ..models.offloading import stored_weight
from .adapter_states import adapted_layers

ROUNDINGS = 2
QUANTIZED_STEP = 1 / 64  # relative to the largest weight; rounding to 8 bits twice never changes a weight by more
WORD = 8


@dataclass(frozen=True)
class BaseWeight:
    """Identifies the base weight of one layer.

    Attributes:
        dtype: dtype of the weight.
        fingerprint: checksum of the weight, see `fingerprint`.
        copy: copy of the weight on the CPU, or `None` if the model's files contain it.
    """

    dtype: torch.dtype
    fingerprint: int
    copy: torch.Tensor | None

    @classmethod
    def of(cls, weight: torch.Tensor, *, is_in_files: bool) -> "BaseWeight":
        return cls(weight.dtype, fingerprint(weight), None if is_in_files else weight.to("cpu", copy=True))


def fingerprint(tensor: torch.Tensor) -> int:
    """Return a checksum of a tensor: the sum of its bytes read as 64-bit integers. It is the same on every device."""
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    words = data[: len(data) // WORD * WORD].view(torch.int64).sum()
    rest = torch.nn.functional.pad(data[len(data) // WORD * WORD :], (0, -len(data) % WORD)).view(torch.int64).sum()
    return int(words + rest)


def weights_in_files(model: ModelMixin, names: Iterable[str], *, are_unchanged: bool) -> set[str]:
    """Find the layers whose weight is in the files that the model was loaded from.

    Args:
        model: model with adapted layers.
        names: names of the layers to look for.
        are_unchanged: whether the model was just loaded. If so, only the shapes are compared. If not, the files are
            read and the weights must be equal.

    Returns:
        Names of the layers that were found.
    """
    layers = {name: base_layer(model.get_submodule(name)) for name in names}
    found = set()
    for path in _weight_files(model):
        if are_unchanged:
            found |= {name for name, shape in _shapes(path, layers) if shape == weight_of(layers[name]).shape}
            continue
        for name, tensor in _read(path, layers.keys() - found):
            weight = weight_of(layers[name])
            if tensor.shape == weight.shape and fingerprint(tensor.to(weight.dtype)) == fingerprint(weight):
                found.add(name)
    return found


@torch.no_grad()
def restore_weights(model: ModelMixin, weights: Mapping[str, BaseWeight]) -> list[str]:
    """Restore the exact base weights of layers that an adapter was merged into.

    Args:
        model: model with the merged layers.
        weights: base weights by layer name.

    Returns:
        Names of the layers that stay merged because no file contains their base weight.
    """
    layers = {name: base_layer(model.get_submodule(name)) for name in weights}
    left = dict(weights)
    for name, weight in weights.items():
        if weight.copy is not None:
            stored_weight(layers[name]).copy_(weight.copy)
            del left[name]
    for path in _weight_files(model):
        for name, tensor in _read(path, left):
            tensor = tensor.to(left[name].dtype)
            if fingerprint(tensor) == left[name].fingerprint:
                stored_weight(layers[name]).copy_(tensor)
                del left[name]
    return sorted(left)


@torch.no_grad()
def subtract_adapter(layer: AdapterLayer, adapter_name: str) -> None:
    """Subtract a merged adapter from a layer's weight in float32. The result is exact up to rounding."""
    stored = stored_weight(layer.get_base_layer())
    base = nn.Module()
    base.weight = nn.Parameter(stored, requires_grad=False)
    exact = exact_copy(layer, base)
    exact.to(stored.device)
    exact.merged_adapters = [adapter_name]
    exact.unmerge()
    stored.copy_(weight_of(exact.get_base_layer()))


def unfuse_exactly(model: ModelMixin) -> list[str]:
    """Unfuse every adapter and restore the exact weights of the fused layers from the model's files.

    Unfusing alone leaves rounding errors of two sums, and of two quantizations if the layer is quantized. This reads
    the files again (and quantizes again), so no copy is needed in memory. If a weight from the files differs by more
    than rounding explains, it belongs to another model, and the unfused weight is used.

    Returns:
        Names of the layers that are exact only up to rounding because no file contains their weight.
    """
    fused = {name: layer for name, layer in adapted_layers(model) if layer.merged_adapters}
    largest = {name: _plain_weight(layer).abs().max() for name, layer in fused.items()}
    model.unfuse_lora()
    for path in _weight_files(model):
        for name, tensor in _read(path, fused):
            layer = fused[name]
            if _is_same_up_to_rounding(layer, tensor, largest[name]):
                _set_weight(layer, tensor)
                del fused[name]
    return sorted(fused)


def _weight(layer: AdapterLayer) -> torch.Tensor:
    return weight_of(layer.get_base_layer())


def _is_torchao(layer: AdapterLayer) -> bool:
    return getattr(layer, "get_apply_tensor_subclass", None) is not None


def _plain_weight(layer: AdapterLayer) -> torch.Tensor:
    """Return the layer's weight as a plain tensor."""
    weight = _weight(layer)
    return weight.dequantize() if _is_torchao(layer) else weight


@torch.no_grad()
def _set_weight(layer: AdapterLayer, tensor: torch.Tensor) -> None:
    weight = _weight(layer)
    if not _is_torchao(layer):
        weight.copy_(tensor)
        return
    from torchao import quantize_

    plain = torch.nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, device="meta")
    plain.weight = torch.nn.Parameter(tensor.to(weight.device, weight.dtype), requires_grad=False)
    quantize_(plain, layer.get_apply_tensor_subclass())
    layer.get_base_layer().weight = plain.weight


def _weight_files(model: ModelMixin) -> list[Path]:
    folder = model.config.get("_name_or_path")
    return sorted(Path(folder).glob("*.safetensors")) if folder else []


def _read(path: Path, layers: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of `layers` that a file contains. Yields nothing if the file is damaged."""
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in _names(tensors.keys(), layers):
                yield name, tensors.get_tensor(f"{name}.weight")
    except (OSError, SafetensorError):
        return


def _shapes(path: Path, layers: Iterable[str]) -> Iterator[tuple[str, torch.Size]]:
    """Like `_read`, but yield only the shapes."""
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in _names(tensors.keys(), layers):
                yield name, torch.Size(tensors.get_slice(f"{name}.weight").get_shape())
    except (OSError, SafetensorError):
        return


def _names(keys: Iterable[str], layers: Iterable[str]) -> list[str]:
    return sorted({key.removesuffix(".weight") for key in keys if key.endswith(".weight")} & set(layers))


def _is_same_up_to_rounding(layer: AdapterLayer, tensor: torch.Tensor, largest: torch.Tensor) -> bool:
    weight = _plain_weight(layer)
    if tensor.shape != weight.shape or not weight.is_floating_point():
        return False
    tensor = tensor.to(weight.device, weight.dtype)
    step = QUANTIZED_STEP if _is_torchao(layer) else torch.finfo(weight.dtype).eps
    bound = ROUNDINGS * step * torch.maximum(largest, tensor.abs().max())
    return bool(((weight - tensor).abs() <= bound).all())
