"""Write the README.md of an export, which says how to use it."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from ..families import Family
from .stock_use import STOCK_SCHEDULER, StockUse, arguments_code, call_code, call_options, import_code, load_lora_code

LORA_FORMAT: Final = "diffusers"
COMFYUI: Final = "comfyui"
MERGED: Final = "merged"
TRANSFORMER: Final = "transformer"
LOCAL_BASE = "path/to/the/base"
SECTION = "\n\n"


def export_page(
    format: str,
    name: str,
    family: Family,
    use: StockUse | str,
    step_counts: list[int],
    *,
    base: str = LOCAL_BASE,
    base_loras: Sequence[str] = (),
    max_sequence_length: int | None = None,
    files: Mapping[str, str] = MappingProxyType({}),
    sampling: str = "",
) -> str:
    """Write the README.md of an export in Markdown.

    Args:
        name: name of the export's folder.
        use: how a stock pipeline samples from the export, or one sentence that says why it cannot.
        step_counts: step counts that the weights support, the most important one first.
        base: path or Hub id of the base model.
        base_loras: LoRAs that must be loaded on the base first, for an export that is a LoRA.
        max_sequence_length: length of the encoded prompts in training, in tokens.
        files: files of an exported LoRA by denoiser, the one for high noise first.
        sampling: how ComfyUI samples with two denoisers, for which there is no workflow.
    """
    loras = ", ".join(base_loras) if format in (COMFYUI, LORA_FORMAT) else ""
    if format == COMFYUI:
        counts = ", ".join(map(str, sorted(step_counts)))
        if len(files) > 1:
            high, low = files.values()
            return (
                f"# {name}\n\nA TwinFlow LoRA for ComfyUI, for {counts} steps. It has a file for each of two models.\n\n"
                "1. Copy the `.safetensors` files into ComfyUI's folder `models/loras`.\n"
                f"2. Load `{high}` on the model for high noise and `{low}` on the model for low noise, both at strength 1.\n"
                f"3. {sampling}\n"
            )
        return (
            f"# {name}\n\nA TwinFlow LoRA for ComfyUI, for {counts} steps.\n\n"
            "1. Copy the `.safetensors` file into ComfyUI's folder `models/loras`.\n"
            '2. Open a workflow with "Load", or drop it onto the page.\n'
            "3. Choose your files in the loader nodes.\n"
            + (f"4. Add a LoRA loader for each LoRA that the base needs: {loras}.\n" if loras else "")
        )
    imports, load = ["DiffusionPipeline"], _load_code(format, name, family, base, files)
    ours = ""
    if isinstance(use, StockUse):
        arguments, rest = use.call_code(step_counts[0]), use.sigma_table()
        if format != MERGED:
            imports.append(STOCK_SCHEDULER)
            load += f"\npipe.scheduler = {use.scheduler_code()}"
    else:
        options = {"num_inference_steps": step_counts[0], **call_options(family, max_sequence_length)}
        arguments, rest = arguments_code(options), use
        ours = "from diffusers_twinflow import TwinFlowScheduler\n"
        load += f'\npipe.scheduler = TwinFlowScheduler.from_pretrained({json.dumps(name)}, subfolder="scheduler")'
    if format == TRANSFORMER:
        imports.append(_class_name(family))
    return f"""# {name}

Few-step weights for stock diffusers. The target time of each step is part of the weights.

```python
import torch
from diffusers import {", ".join(sorted(imports))}
{import_code(family)}{ours}
{load}
{call_code(family, arguments)}
```

{f"Before this LoRA, load these LoRAs and fuse them into the base: {loras}.{SECTION}" if loras else ""}{rest}
"""


def _load_code(format: str, name: str, family: Family, base: str, files: Mapping[str, str]) -> str:
    export, base = json.dumps(name), json.dumps(base)
    if format == MERGED:
        return f'pipe = DiffusionPipeline.from_pretrained({export}, dtype=torch.bfloat16).to("cuda")'
    if format == LORA_FORMAT:
        pipe = f'pipe = DiffusionPipeline.from_pretrained({base}, dtype=torch.bfloat16).to("cuda")'
        return f"{pipe}\n{load_lora_code(name, files)}"
    component = family.component_name
    return (
        f"{component} = {_class_name(family)}.from_pretrained({export}, dtype=torch.bfloat16)\n"
        f'pipe = DiffusionPipeline.from_pretrained({base}, {component}={component}, dtype=torch.bfloat16).to("cuda")'
    )


def _class_name(family: Family) -> str:
    return family.transformer_class.stock_class().__name__
