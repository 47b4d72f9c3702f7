"""The base's own weights of fused layers, read again from the files that the model was loaded from."""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open

from .adapter_states import adapted_layers

ROUNDINGS = 2
QUANTIZED_STEP = 1 / 64  # of the largest weight; two roundings to 8 bits are further apart than that only by mistake


def unfuse_exactly(model: ModelMixin) -> list[str]:
    """Unfuse every adapter, and make the weights of the fused layers those of the model's files again.

    Unfusing alone gives a weight back up to the rounding of two sums, and of two quantisations if the layer is
    quantised. No copy is kept for it while the adapters are fused: the files are read again, and quantised again. A
    weight of the files that is further off than rounding explains is another one's, and the unfused weight stays.

    Returns:
        names of the layers that are exact only up to rounding, because no file has their weight.
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


def _weight(layer: BaseTunerLayer) -> torch.nn.Parameter:
    return layer.get_base_layer().weight


def _is_torchao(layer: BaseTunerLayer) -> bool:
    return getattr(layer, "get_apply_tensor_subclass", None) is not None


def _plain_weight(layer: BaseTunerLayer) -> torch.Tensor:
    """The weight as an ordinary tensor."""
    weight = _weight(layer)
    return weight.dequantize() if _is_torchao(layer) else weight


@torch.no_grad()
def _set_weight(layer: BaseTunerLayer, tensor: torch.Tensor) -> None:
    weight = _weight(layer)
    if not _is_torchao(layer):
        weight.copy_(tensor)
        return
    from torchao import quantize_

    plain = torch.nn.Linear(*tensor.shape[::-1], bias=False, device="meta")
    plain.weight = torch.nn.Parameter(tensor.to(weight.device, weight.dtype), requires_grad=False)
    quantize_(plain, layer.get_apply_tensor_subclass())
    layer.get_base_layer().weight = plain.weight


def _weight_files(model: ModelMixin) -> list[Path]:
    folder = model.config.get("_name_or_path")
    return sorted(Path(folder).glob("*.safetensors")) if folder else []


def _read(path: Path, layers: dict[str, BaseTunerLayer]) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of those layers that a file holds; none of a file that is not whole any more."""
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in sorted({f"{name}.weight" for name in layers} & set(tensors.keys())):
                yield name.removesuffix(".weight"), tensors.get_tensor(name)
    except (OSError, SafetensorError):
        return


def _is_same_up_to_rounding(layer: BaseTunerLayer, tensor: torch.Tensor, largest: torch.Tensor) -> bool:
    weight = _plain_weight(layer)
    if tensor.shape != weight.shape or not weight.is_floating_point():
        return False
    tensor = tensor.to(weight.device, weight.dtype)
    step = QUANTIZED_STEP if _is_torchao(layer) else torch.finfo(weight.dtype).eps
    bound = ROUNDINGS * step * torch.maximum(largest, tensor.abs().max())
    return bool(((weight - tensor).abs() <= bound).all())
