"""Write the README.md (model card) of a TwinFlow repository from its configuration and its sample images."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from diffusers.utils import logging
from huggingface_hub import ModelCard, ModelCardData, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..families import FAMILIES
from ..schedulers import TwinFlowScheduler
from ..writing import write_file
from .base_loras import BaseLora, parse_base_loras
from .files import CARD_NAME, INDEX_NAME, LORA_NAME, MAX_JSON_BYTES, SAMPLES_FOLDER, SCHEDULER_NAME, read_json
from .portable import Portable
from .repository import LORA, TwinFlowRepositoryConfig
from .sample_images import read_columns, read_prompt, read_prompts, sample_names
from .stock_use import STOCK_SCHEDULER, call_code, import_code, load_lora_code, stock_use

logger = logging.get_logger(__name__)

SHOWN_OPTIONS = (
    "twinflow_estimate_order",
    "twinflow_enhanced_ratio",
    "twinflow_delta_t",
    "twinflow_target_clamp",
    "twinflow_adversarial_enabled",
    "twinflow_ema_decay",
)
LICENSE_FIELDS = ("license", "license_name", "license_link")
NOTE_START, NOTE_END = "<!-- diffusers-twinflow ", " -->\n"
SPECIAL = re.compile(r"[\\`*\[\]|~]")
"""Characters that Markdown reads as markup inside a line, besides HTML."""
MAX_VALUE_LENGTH = 300


def save_model_card(
    directory: str | Path,
    repo_id: str,
    *,
    prompts: Sequence[str] = (),
    scores: Mapping[str, float] | None = None,
    base_model: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> ModelCard:
    """Write the model card of a LoRA or a whole model. Call it again after you change `samples/`.

    Args:
        directory: directory of the repository, which the card is written to.
        repo_id: Hub id that the repository will have, for the code on the card.
        prompts: prompts of the rows of the sample grid. Defaults to the prompts that `save_samples` stored.
        scores: measured numbers by name. Defaults to none.
        base_model: Hub id of the base. Needed if the configuration names a local directory.
        cache_dir: cache of Hub downloads, used to find the base's license. Defaults to the Hub's cache.
        token: token for a private or gated base. Defaults to the token that you logged in with.

    Returns:
        The card.

    Raises:
        TwinFlowConfigError: if the directory is not a TwinFlow repository.
    """
    directory = Path(directory)
    config = TwinFlowRepositoryConfig.load(directory)
    is_local = (directory / config.base_model).is_dir()
    names = sample_names(directory)
    widget = {name: prompt for name in names if (prompt := read_prompt(directory, name)) is not None}
    card = build_model_card(
        config,
        repo_id,
        base_model=base_model or (None if is_local else _hub_id(config.base_model)),
        license_fields=base_license(config, directory, base_model=base_model, cache_dir=cache_dir, token=token),
        samples=[f"{SAMPLES_FOLDER}/{name}" for name in names if name not in widget],
        widget={f"{SAMPLES_FOLDER}/{name}": prompt for name, prompt in widget.items()},
        prompts=prompts or read_prompts(directory),
        columns=read_columns(directory),
        scores=scores,
        scheduler=_scheduler(directory),
        absent=absent_components(config, directory, base_model=base_model, cache_dir=cache_dir, token=token),
    )
    write_file(directory / CARD_NAME, card.save)
    return card


def rewrite_model_card(directory: str | Path, repo_id: str, **options: Any) -> ModelCard:
    """Write the model card again for another repository or base, with the scores and prompts of the present card."""
    note = _read_card_note(Path(directory) / CARD_NAME)[1]
    return save_model_card(
        directory, repo_id, **{"scores": note.get("scores"), "prompts": note.get("prompts", ())} | options
    )


def is_generated_card(path: Path) -> bool:
    """Return whether `save_model_card` wrote the card and nobody edited it since, so that it can be overwritten."""
    body, note = _read_card_note(path)
    return bool(note) and note.get("sha256") == _digest(body)


def _card_note(body: str, scores: Mapping[str, float] | None, prompts: Sequence[str]) -> str:
    """Return a hidden Markdown comment with the data that `rewrite_model_card` and `is_generated_card` need."""
    note = {"sha256": _digest(body), "scores": dict(scores) if scores else None, "prompts": list(prompts)}
    text = json.dumps(note).replace("<", "\\u003c").replace(">", "\\u003e").replace("--", "\\u002d\\u002d")
    return f"{NOTE_START}{text}{NOTE_END}"


def _read_card_note(path: Path) -> tuple[str, dict[str, Any]]:
    """Split a card into its text and its hidden note. The note is empty if the card has none."""
    try:
        body, _, note = path.read_bytes().decode("utf-8").replace("\r\n", "\n").rpartition(NOTE_START)
        values = json.loads(note.removesuffix(NOTE_END)) if body else {}
    except (OSError, ValueError, RecursionError):
        return "", {}
    return body, values if isinstance(values, dict) else {}


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def build_model_card(
    config: TwinFlowRepositoryConfig,
    repo_id: str,
    *,
    base_model: str | None = None,
    license_fields: Mapping[str, str] | None = None,
    samples: Sequence[str] = (),
    widget: Mapping[str, str] | None = None,
    columns: Sequence[str] = (),
    prompts: Sequence[str] = (),
    scores: Mapping[str, float] | None = None,
    scheduler: TwinFlowScheduler | None = None,
    absent: Sequence[str] = (),
) -> ModelCard:
    """Build the model card of a TwinFlow LoRA or of a whole TwinFlow model.

    Args:
        config: configuration of the repository.
        repo_id: Hub id of the repository.
        base_model: Hub id of the base, or `None` if it is not on the Hub.
        license_fields: the base's `license`, and its `license_name` and `license_link` if it has them.
        samples: paths of the images in the repository that the text shows.
        widget: prompts by image path. The Hub shows these images at the top of the page.
        columns: labels of the columns in the sample grid. Defaults to 1, 2 and 4 steps.
        prompts, scores: as in `save_model_card`.
        scheduler: the repository's scheduler, for the code with stock diffusers.
        absent: components that the base was saved without, for the same code.
    """
    family, task = config.family.replace("_", "-"), FAMILIES[config.family].task
    is_lora = config.train_type == LORA
    optional: dict[str, Any] = dict(license_fields or {})
    if widget:
        optional["widget"] = _widget(widget)
    if base_model:
        optional["base_model_relation"] = "adapter" if is_lora else "finetune"
    data = ModelCardData(
        base_model=base_model,
        library_name="diffusers",
        pipeline_tag=task,
        tags=["twinflow", *(["lora"] if is_lora else []), "diffusers", family, task],
        **optional,
    )
    sections = [
        _head(config, repo_id, base_model),
        _pictures(samples, prompts, columns),
        _use(config, repo_id, base_model),
        _stock(config, repo_id, base_model, scheduler, absent),
        _training(config),
        _scores(scores),
        _license(config, license_fields),
    ]
    body = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n\n"
    return ModelCard(body + _card_note(body, scores, prompts))


def _widget(images: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the sample images with their prompts in the Hub's widget format."""
    return [{"text": _one_line(prompt), "output": {"url": quote(path)}} for path, prompt in images.items()]


def _scheduler(directory: Path) -> TwinFlowScheduler | None:
    path = directory / SCHEDULER_NAME
    return TwinFlowScheduler.from_config(read_json(path, name=SCHEDULER_NAME)) if path.is_file() else None


def base_license(
    config: TwinFlowRepositoryConfig,
    directory: str | Path,
    *,
    base_model: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> dict[str, str]:
    """Read the license fields from the base's model card.

    The card is the README.md of a local base, or the base's card on the Hub. If the Hub cannot be reached, the cache is
    used. The result is empty if there is no card or its metadata cannot be read.
    """
    path = _base_file(CARD_NAME, config, directory, base_model=base_model, cache_dir=cache_dir, token=token)
    data = {} if path is None else _read_metadata(path)
    return {name: data[name] for name in LICENSE_FIELDS if isinstance(data.get(name), str)}


def absent_components(
    config: TwinFlowRepositoryConfig,
    directory: str | Path,
    *,
    base_model: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> list[str]:
    """Return the components that stock diffusers must be told to leave out, because the base was saved without them.

    They are read from the index of the base, or from that of a whole model. The result is empty if there is no index.
    """
    if config.train_type == LORA:
        path = _base_file(INDEX_NAME, config, directory, base_model=base_model, cache_dir=cache_dir, token=token)
    else:
        path = Path(directory, INDEX_NAME)
    if path is None or not path.is_file():
        return []
    optional = FAMILIES[config.family].pipeline_class._optional_components
    return [name for name, entry in read_json(path).items() if entry == [None, None] and name not in optional]


def _base_file(
    file_name: str,
    config: TwinFlowRepositoryConfig,
    directory: str | Path,
    *,
    base_model: str | None,
    cache_dir: str | Path | None,
    token: str | None,
) -> Path | None:
    """Find a file of a local base, or of the base on the Hub or in its cache; `None` if there is none."""
    local = Path(directory, config.base_model)
    paths = [local / file_name]
    for name in (base_model, None if local.is_dir() else config.base_model):
        if name and _hub_id(name):
            revision = config.base_model_revision if name == config.base_model else None
            paths += _pulled(name, file_name, revision=revision, cache_dir=cache_dir, token=token)
    return next((path for path in paths if path.is_file()), None)


def _read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of the base's card. Warns and returns an empty dictionary if it cannot be read."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning(f"The model card has no license, because the base's card '{path}' cannot be read ({reason}).")
        return {}


def _pulled(
    name: str, file_name: str, *, revision: str | None, cache_dir: str | Path | None, token: str | None
) -> list[Path]:
    try:
        return [Path(hf_hub_download(name, file_name, revision=revision, cache_dir=cache_dir, token=token))]
    except Exception as error:  # network errors have no common class, and the cache may have the file
        logger.debug(f"{file_name} of '{name}' was not downloaded ({type(error).__name__}).")
    cached = try_to_load_from_cache(name, file_name, cache_dir=cache_dir, revision=revision)
    return [Path(cached)] if isinstance(cached, str) else []


def _hub_id(name: str) -> str | None:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and ".." not in name else None


def _plural(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _outputs(config: TwinFlowRepositoryConfig) -> str:
    return "videos" if FAMILIES[config.family].task.endswith("video") else "images"


def _head(config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None) -> str:
    base = "a base model that is not on the Hub"
    if base_model:
        base = f"[{_escape(base_model)}](https://huggingface.co/{quote(base_model)})"
    if config.base_loras:
        loras = parse_base_loras(config.base_loras)
        base += f" with {' and '.join(map(_lora_link, loras))} merged into it"
    kind = "LoRA for" if config.train_type == LORA else "model distilled from"
    return (
        f"# {_escape(repo_id.split('/')[-1])}\n\nA [TwinFlow](https://huggingface.co/papers/2512.05150) {kind} {base}: "
        f"it generates {_outputs(config)} in {_plural(config.num_inference_steps)} without classifier-free guidance."
    )


def _lora_link(lora: BaseLora) -> str:
    """Return a link to a LoRA with its scale. Paths of a machine are left out."""
    strength = "" if lora.scale == 1 else f" at scale {lora.scale:g}"
    hub_id = lora.hub_id
    if hub_id is None:
        return f"a LoRA that is not on the Hub{strength}"
    return f"[{_escape(hub_id)}](https://huggingface.co/{quote(hub_id)}){strength}"


def _pictures(samples: Sequence[str], prompts: Sequence[str], columns: Sequence[str]) -> str:
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
    return SPECIAL.sub(r"\\\g<0>", _one_line(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(value: Any) -> str:
    """Return a value as one line of at most `MAX_VALUE_LENGTH` characters, without control characters."""
    text = " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 1] + "…"


def _quoted(text: str) -> str:
    """Return a text as a Python string literal."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _use(config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None) -> str:
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


def _stock(
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
    title = "## Without this package"
    if isinstance(use, str):
        return f"{title}\n\n{use}{_parts(config, repo_id)}"
    steps = config.num_inference_steps if config.num_inference_steps in use.sigmas else next(iter(use.sigmas))
    base = (base_model or "path/to/the/base") if is_lora else repo_id
    left_out = "".join(f", {name}=None" for name in absent)
    base_loras = "".join(map(_merge_code, parse_base_loras(config.base_loras))) if is_lora else ""
    lora = base_loras + _load_code(config, repo_id) if is_lora else ""
    return f"""{title}

Stock diffusers generates the same {_outputs(config)}. The target time of each step is part of the weights, so use one of the step counts below with exactly these sigmas.

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


def _training(config: TwinFlowRepositoryConfig) -> str:
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
    """Return whether a data set is a local folder, which a card must not name."""
    return not isinstance(dataset_name, str) or not _hub_id(dataset_name) or Path(dataset_name).exists()


def _scores(scores: Mapping[str, float] | None) -> str:
    if not scores:
        return ""
    return "## Scores\n\n| | |\n|---|---|\n" + "\n".join(
        f"| {_escape(name)} | {value:.4g} |" for name, value in scores.items()
    )


def _license(config: TwinFlowRepositoryConfig, license_fields: Mapping[str, str] | None) -> str:
    kind = "LoRA" if config.train_type == LORA else "model"
    if not license_fields:
        return f"## License\n\nThis {kind} has the license of its base model. See the base model's page."
    return f"## License\n\nThis {kind} has the license of its base model, because it was trained from its weights."
