"""Write the README.md of an export, which says how to use it."""

import json
from collections.abc import Sequence
from typing import Final

from ..families import Family
from .stock_use import STOCK_SCHEDULER, StockUse, arguments_code, call_code, call_options, import_code

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
) -> str:
    """Write the README.md of an export in Markdown.

    Args:
        name: name of the export's folder.
        use: how a stock pipeline samples from the export, or one sentence that says why it cannot.
        step_counts: step counts that the weights support, the most important one first.
        base: path or Hub id of the base model.
        base_loras: LoRAs that must be loaded on the base first, for an export that is a LoRA.
        max_sequence_length: length of the encoded prompts in training, in tokens.
    """
    loras = ", ".join(base_loras) if format in (COMFYUI, LORA_FORMAT) else ""
    if format == COMFYUI:
        counts = ", ".join(map(str, sorted(step_counts)))
        return (
            f"# {name}\n\nA TwinFlow LoRA for ComfyUI, for {counts} steps.\n\n"
            "1. Copy the `.safetensors` file into ComfyUI's folder `models/loras`.\n"
            '2. Open a workflow with "Load", or drop it onto the page.\n'
            "3. Choose your files in the loader nodes.\n"
            + (f"4. Add a LoRA loader for each LoRA that the base needs: {loras}.\n" if loras else "")
        )
    imports, load = ["DiffusionPipeline"], _load_code(format, name, family, base)
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


def _load_code(format: str, export: str, family: Family, base: str) -> str:
    export, base = json.dumps(export), json.dumps(base)
    if format == MERGED:
        return f'pipe = DiffusionPipeline.from_pretrained({export}, dtype=torch.bfloat16).to("cuda")'
    if format == LORA_FORMAT:
        pipe = f'pipe = DiffusionPipeline.from_pretrained({base}, dtype=torch.bfloat16).to("cuda")'
        return f"{pipe}\npipe.load_lora_weights({export})"
    name = family.component_name
    return (
        f"{name} = {_class_name(family)}.from_pretrained({export}, dtype=torch.bfloat16)\n"
        f'pipe = DiffusionPipeline.from_pretrained({base}, {name}={name}, dtype=torch.bfloat16).to("cuda")'
    )


def _class_name(family: Family) -> str:
    return family.transformer_class.stock_class().__name__
