"""The text of a model card, one function per section. A section is empty if there is nothing to say."""

import json
import re
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..families import FAMILIES
from ..schedulers import TwinFlowScheduler
from .base_loras import BaseLora, parse_base_loras
from .card_base import hub_id_of
from .files import LORA_NAME
from .portable import Portable
from .repository import LORA, TwinFlowRepositoryConfig
from .sample_images import count_of_steps
from .stock_use import STOCK_SCHEDULER, call_code, import_code, load_lora_code, stock_use

SHOWN_OPTIONS = (
    "twinflow_estimate_order",
    "twinflow_enhanced_ratio",
    "twinflow_delta_t",
    "twinflow_target_clamp",
    "twinflow_adversarial_enabled",
    "twinflow_ema_decay",
)
SPECIAL = re.compile(r"[\\`*\[\]|~]")
"""Characters that Markdown reads as markup inside a line, besides HTML."""
MAX_VALUE_LENGTH = 300


def _outputs(config: TwinFlowRepositoryConfig) -> str:
    return "videos" if FAMILIES[config.family].task.endswith("video") else "images"


def head_section(config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None) -> str:
    base = "a base model that is not on the Hub"
    if base_model:
        base = f"[{_escape(base_model)}](https://huggingface.co/{quote(base_model)})"
    if config.base_loras:
        loras = parse_base_loras(config.base_loras)
        base += f" with {' and '.join(map(_lora_link, loras))} merged into it"
    kind = "LoRA for" if config.train_type == LORA else "model distilled from"
    return (
        f"# {_escape(repo_id.split('/')[-1])}\n\nA [TwinFlow](https://huggingface.co/papers/2512.05150) {kind} {base}: "
        f"it generates {_outputs(config)} in {count_of_steps(config.num_inference_steps)} without classifier-free guidance."
    )


def _lora_link(lora: BaseLora) -> str:
    """Return a link to a LoRA with its scale. Paths of a machine are left out."""
    strength = "" if lora.scale == 1 else f" at scale {lora.scale:g}"
    hub_id = lora.hub_id
    if hub_id is None:
        return f"a LoRA that is not on the Hub{strength}"
    return f"[{_escape(hub_id)}](https://huggingface.co/{quote(hub_id)}){strength}"


def samples_section(samples: Sequence[str], prompts: Sequence[str], columns: Sequence[str]) -> str:
    if not samples:
        return ""
    lines = [f"![{_escape(path)}]({quote(path)})" for path in samples]
    if prompts:
        labels = "; ".join(map(_escape, columns)) or "1, 2 and 4 steps"
        lines.append(f"Columns: {labels}. Rows, from the top:")
        lines.append("\n".join(f"{i}. {_escape(prompt)}" for i, prompt in enumerate(prompts, 1)))
    return "## Samples\n\n" + "\n\n".join(lines)


def _escape(value: Any) -> str:
    """Return a value as one line of plain text, with Markdown and HTML escaped."""
    return SPECIAL.sub(r"\\\g<0>", one_line(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_line(value: Any) -> str:
    """Return a value as one line of at most `MAX_VALUE_LENGTH` characters, without control characters."""
    text = " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 1] + "…"


def _quoted(text: str) -> str:
    """Return a text as a Python string literal."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def use_section(config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None) -> str:
    is_lora = config.train_type == LORA
    base = "" if base_model or not is_lora else ', base_model="path/to/the/base"'
    family = FAMILIES[config.family]
    pipeline, output, result = family.pipeline_class.__name__, family.output_name, family.task.split("-")[-1]
    guidance_off = "".join(f", {name}={value}" for name, value in family.guidance_off.items())
    what, imports = 'prompt="your prompt"', ""
    if family.takes_reference_image:
        what, imports = (
            f'{family.image_argument}=load_image("before.png"), {what}',
            "from diffusers.utils import load_image\n",
        )
    text = f"""## Use

```bash
pip install diffusers-twinflow
```

```python
import torch
{imports}from diffusers_twinflow import TwinFlowPipeline

pipe = TwinFlowPipeline.from_pretrained({_quoted(repo_id)}, dtype=torch.bfloat16{base}).to("cuda")
{result} = pipe({what}, num_inference_steps={config.num_inference_steps}).{output}[0]
```"""
    if not is_lora:
        return text
    merge_import, merge = "", ""
    parts = signature(family.pipeline_class.__init__).parameters
    guiders = "".join(f"pipe.{name}.disable()\n" for name in parts if "guider" in name)
    if family.is_modular:
        merge_import = "from diffusers_twinflow.families import blocks_pipeline\n"
        merge = "pipe = blocks_pipeline(modular)  # your pipeline, behind the interface of a stock pipeline\n"
    if config.base_loras:
        merge_import += "from diffusers_twinflow.hub import merge_base_loras\n"
        loras = [str(each.public()) for each in parse_base_loras(config.base_loras)]
        merge += f"merge_base_loras(pipe, {json.dumps(loras)})\n"
    return f"""{text}

Load it into a `{pipeline}` that you already have, next to other LoRAs:

```python
from diffusers_twinflow import load_twinflow_lora, unload_twinflow_lora
{merge_import}
{merge}load_twinflow_lora(pipe, {_quoted(repo_id)})
{guiders}{result} = pipe({what}, num_inference_steps={config.num_inference_steps}{guidance_off}).{output}[0]
unload_twinflow_lora(pipe)
```"""


def stock_section(
    config: TwinFlowRepositoryConfig,
    repo_id: str,
    base_model: str | None,
    scheduler: TwinFlowScheduler | None,
    absent: Sequence[str],
) -> str:
    """Return the section that says how stock diffusers generates the same images, or why it cannot."""
    if config.portable is None or scheduler is None:
        return ""
    family, is_lora = FAMILIES[config.family], config.train_type == LORA
    use = stock_use(family, scheduler, Portable.from_dict(config.portable), config.max_sequence_length)
    title = "## Without diffusers-twinflow"
    if isinstance(use, str):
        return f"{title}\n\n{use}{_parts(config, repo_id)}"
    steps = config.num_inference_steps if config.num_inference_steps in use.sigmas else next(iter(use.sigmas))
    base = (base_model or "path/to/the/base") if is_lora else repo_id
    left_out = "".join(f", {name}=None" for name in absent)
    base_loras = "".join(map(_merge_code, parse_base_loras(config.base_loras))) if is_lora else ""
    lora = base_loras + _load_code(config, repo_id) if is_lora else ""
    return f"""{title}

Diffusers generates the same {_outputs(config)} by itself. The weights are made for the step counts below, so use one \
of them with exactly its sigmas.

```python
import torch
from diffusers import DiffusionPipeline, {STOCK_SCHEDULER}
{import_code(family)}
pipe = DiffusionPipeline.from_pretrained("{base}", dtype=torch.bfloat16{left_out}).to("cuda")
{lora}pipe.scheduler = {use.scheduler_code()}
{call_code(family, use.call_code(steps))}
```

{use.sigma_table()}"""


def _parts(config: TwinFlowRepositoryConfig, repo_id: str) -> str:
    """Return how stock diffusers loads the files of a LoRA for two denoisers; empty for other repositories."""
    if config.train_type != LORA or len(config.trained_denoisers) == 1:
        return ""
    scheduler = f'pipe.scheduler = {TwinFlowScheduler.__name__}.from_pretrained("{repo_id}", subfolder="scheduler")'
    return f"""

Stock diffusers loads the files of both denoisers into a `{FAMILIES[config.family].pipeline_class.__name__}`:

```python
from diffusers_twinflow.schedulers import {TwinFlowScheduler.__name__}

{_load_code(config, repo_id)}{scheduler}
```"""


def _load_code(config: TwinFlowRepositoryConfig, repo_id: str) -> str:
    """Write the lines of Python that load a LoRA with stock diffusers."""
    files = {name: config.file_of(name, LORA_NAME) for name in config.trained_denoisers}
    return f"{load_lora_code(repo_id, files)}\n"


def _merge_code(lora: BaseLora) -> str:
    """Write the lines of Python that merge a LoRA with stock diffusers."""
    name, weight_name = lora.public().hub_parts
    options = f', weight_name="{weight_name}"' if weight_name != LORA_NAME else ""
    options += f', revision="{lora.revision}"' if lora.revision else ""
    return (
        f'pipe.load_lora_weights("{name}"{options})\n'
        f"pipe.fuse_lora(lora_scale={lora.scale:g})\n"
        "pipe.unload_lora_weights()\n"
    )


def training_section(config: TwinFlowRepositoryConfig) -> str:
    arguments = config.trained.get("arguments")
    arguments = arguments if isinstance(arguments, dict) else {}
    rows = {"steps trained": config.trained.get("steps")}
    rows |= {
        name: arguments.get(name) for name in ("train_batch_size", "gradient_accumulation_steps", "learning_rate")
    }
    rows |= {
        name: arguments.get(name) for name in ("rank", "lora_alpha", "resolution", "mixed_precision", "dataset_name")
    }
    if _is_local(rows["dataset_name"]):
        rows["dataset_name"] = None
    rows |= {name: config.options.get(name) for name in SHOWN_OPTIONS}
    table = "\n".join(f"| {name} | {_escape(value)} |" for name, value in rows.items() if value is not None)
    return f"## Training\n\n| | |\n|---|---|\n{table}"


def _is_local(dataset_name: object) -> bool:
    """Return whether a dataset is a local folder, which a card must not name."""
    return not isinstance(dataset_name, str) or not hub_id_of(dataset_name) or Path(dataset_name).exists()


def scores_section(scores: Mapping[str, float] | None) -> str:
    if not scores:
        return ""
    return "## Scores\n\n| | |\n|---|---|\n" + "\n".join(
        f"| {_escape(name)} | {value:.4g} |" for name, value in scores.items()
    )


def license_section(config: TwinFlowRepositoryConfig, license_fields: Mapping[str, str] | None) -> str:
    kind = "LoRA" if config.train_type == LORA else "model"
    if not license_fields:
        return f"## License\n\nThis {kind} has the license of its base model. See the base model's page."
    return f"## License\n\nThis {kind} has the license of its base model, because it was trained from its weights."
