"""Convert a plain diffusers LoRA to the key names and the layout that ComfyUI reads."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from ...configuration import TwinFlowConfigError
from ..lora_check import HALVES
from .layouts import Fused, Layout, layout_of

COMPONENTS = ("transformer", "unet")
KOHYA_HALVES = ("lora_down.weight", "lora_up.weight")


def comfyui_lora(
    tensors: Mapping[str, torch.Tensor], transformer_class_name: str, config: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Convert a plain diffusers LoRA so that ComfyUI applies every layer at full strength.

    Keys that ComfyUI already reads do not change. Other layers get ComfyUI's names. Layers that ComfyUI fuses into one
    become one LoRA layer whose rank is the sum of their ranks.

    Args:
        tensors: weights named `transformer.<module>.lora_A.weight` and `lora_B.weight`, or `unet.…`, with the scale
            folded in (alpha equals the rank).
        transformer_class_name: the diffusers class of the adapted model.
        config: configuration of the adapted model.

    Returns:
        The weights for ComfyUI, without alphas: without them ComfyUI applies a LoRA at full strength.

    Raises:
        TwinFlowConfigError: if the class or a layer has no counterpart in ComfyUI, or if the LoRA is not a plain one.
    """
    layout = layout_of(transformer_class_name)
    adapters = _by_module(tensors)
    _check_modules(adapters, layout, transformer_class_name)
    halves = KOHYA_HALVES if layout.unet else HALVES
    exported: dict[str, torch.Tensor] = {}
    parts: defaultdict[tuple[str, Fused], dict[int, tuple[torch.Tensor, torch.Tensor]]] = defaultdict(dict)
    for module, (down, up) in adapters.items():
        if own := layout.key(module):
            exported |= {f"{own}.{half}": weight for half, weight in zip(halves, (down, up), strict=True)}
        elif part := layout.fused_part(module):
            key, fused, place = part
            parts[key, fused][place] = down, up
    for (key, fused), found in parts.items():
        stacked = _stack(found, fused, config)
        exported |= {f"{key}.{half}": weight for half, weight in zip(halves, stacked, strict=True)}
    return {key: weight.contiguous() for key, weight in exported.items()}


def _by_module(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Group the two factors of each adapted layer by the layer's name.

    Raises:
        TwinFlowConfigError: if a key is not part of a plain LoRA, or a layer has only one factor.
    """
    found: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for key, weight in tensors.items():
        component, _, rest = key.partition(".")
        half = next((half for half in HALVES if rest.endswith(f".{half}")), None)
        if component not in COMPONENTS or half is None:
            raise TwinFlowConfigError(
                f"'{key}' is not a weight of a plain LoRA, so ComfyUI would not apply it. Each key must be "
                f"'transformer.<module>.{HALVES[0]}' or '….{HALVES[1]}' ('unet.…' for a UNet)."
            )
        found[rest.removesuffix(f".{half}")][half] = weight
    for module, halves in found.items():
        if missing := [half for half in HALVES if half not in halves]:
            raise TwinFlowConfigError(
                f"The LoRA has no '{module}.{missing[0]}'. The file is incomplete: save it again."
            )
    return {module: (halves[HALVES[0]], halves[HALVES[1]]) for module, halves in found.items()}


def _check_modules(modules: Mapping[str, Any], layout: Layout, class_name: str) -> None:
    """Check that ComfyUI reads every layer.

    Raises:
        TwinFlowConfigError: if ComfyUI would skip a layer.
    """
    unread = [name for name in modules if layout.key(name) is None and layout.fused_part(name) is None]
    if unread:
        names = ", ".join(unread[:3]) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
        raise TwinFlowConfigError(
            f"ComfyUI has no name that we know for these layers of {class_name}: {names}. It would skip them silently. "
            "Train without these layers, or export a plain diffusers LoRA."
        )


def _stack(
    found: Mapping[int, tuple[torch.Tensor, torch.Tensor]], fused: Fused, config: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine the LoRAs of the parts into one for the fused layer. Each part keeps its own rank and output rows."""
    rows = fused.rows(config)
    places = sorted(found)
    for place in places:
        if found[place][1].shape[0] != rows[place]:
            raise TwinFlowConfigError(
                f"The LoRA of '{fused.parts[place]}' has {found[place][1].shape[0]} rows and the model's configuration "
                f"says {rows[place]}. Pass the configuration of the model that the LoRA was trained for."
            )
    down = torch.cat([found[place][0] for place in places])
    up = down.new_zeros(sum(rows), len(down))
    column = 0
    for place in places:
        part, row = found[place][1], sum(rows[:place])
        up[row : row + rows[place], column : column + part.shape[1]] = part
        column += part.shape[1]
    return down, up
