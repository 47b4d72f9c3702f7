"""The base's own weights of fused layers, read again from the files that the model was loaded from."""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open

ROUNDINGS = 2


def unfuse_exactly(model: ModelMixin) -> list[str]:
    """Unfuse every adapter, and make the weights of the fused layers those of the model's files again.

    Unfusing alone gives a weight back up to the rounding of two sums. No copy is kept for it while the adapters are
    fused: the files are read again. A weight of the files that is further off than rounding explains is another one's,
    and the unfused weight stays.

    Returns:
        names of the layers that are exact only up to rounding, because no file has their weight.
    """
    fused = {name: layer for name, layer in _adapted_layers(model) if layer.merged_adapters}
    largest = {name: _weight(layer).abs().max() for name, layer in fused.items()}
    model.unfuse_lora()
    for path in _weight_files(model):
        for name, tensor in _read(path, fused):
            weight = _weight(fused[name])
            if _is_same_up_to_rounding(weight, tensor, largest[name]):
                with torch.no_grad():
                    weight.copy_(tensor)
                del fused[name]
    return sorted(fused)


def _adapted_layers(model: torch.nn.Module) -> Iterator[tuple[str, BaseTunerLayer]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))


def _weight(layer: BaseTunerLayer) -> torch.nn.Parameter:
    return layer.get_base_layer().weight


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


def _is_same_up_to_rounding(weight: torch.Tensor, tensor: torch.Tensor, largest: torch.Tensor) -> bool:
    if tensor.shape != weight.shape or not weight.is_floating_point():
        return False
    tensor = tensor.to(weight.device, weight.dtype)
    bound = ROUNDINGS * torch.finfo(weight.dtype).eps * torch.maximum(largest, tensor.abs().max())
    return bool(((weight - tensor).abs() <= bound).all())
