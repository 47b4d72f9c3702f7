"""The README.md of a TwinFlow repository, filled from its configuration and its sample pictures."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
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
from .files import CARD_NAME, MAX_JSON_BYTES, SAMPLES_FOLDER, SCHEDULER_NAME, read_json
from .portable import Portable
from .repository import LORA, TwinFlowRepositoryConfig
from .samples import read_columns, read_prompt, read_prompts, sample_names
from .stock_use import STOCK_SCHEDULER, call_code, import_code, stock_use

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
"""What Markdown reads as markup inside a line, besides HTML."""
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
    """Write the card of a LoRA's or a whole model's repository; run again after `samples/` has changed.

    Args:
        directory: the repository, which the card is written into.
        repo_id: the Hub id it will have, for the code that the card shows.
        prompts: what the rows of the sample grid were drawn from; the default is what `save_samples` noted.
        scores: measured numbers by name, where there are any.
        base_model: Hub id of the base, where the configuration names a local directory.
        cache_dir: where a base pulled from the Hub lies, to find its license; the default is the Hub's cache.
        token: for a base that is private or gated; defaults to the one that you logged in with.

    Raises:
        TwinFlowConfigError: where the directory is no TwinFlow repository.
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
    )
    write_file(directory / CARD_NAME, card.save)
    return card


def rewrite_model_card(directory: str | Path, repo_id: str, **options: Any) -> ModelCard:
    """`save_model_card` with the scores and prompts of the card that is there, for another repository or base."""
    note = _read_card_note(Path(directory) / CARD_NAME)[1]
    return save_model_card(
        directory, repo_id, **{"scores": note.get("scores"), "prompts": note.get("prompts", ())} | options
    )


def is_generated_card(path: Path) -> bool:
    """Whether `save_model_card` wrote a card and nobody has edited it since, so that nothing is lost by writing anew."""
    body, note = _read_card_note(path)
    return bool(note) and note.get("sha256") == _digest(body)


def _card_note(body: str, scores: Mapping[str, float] | None, prompts: Sequence[str]) -> str:
    """What a later card needs of this one, as a comment that Markdown does not show."""
    note = {"sha256": _digest(body), "scores": dict(scores) if scores else None, "prompts": list(prompts)}
    text = json.dumps(note).replace("<", "\\u003c").replace(">", "\\u003e").replace("--", "\\u002d\\u002d")
    return f"{NOTE_START}{text}{NOTE_END}"


def _read_card_note(path: Path) -> tuple[str, dict[str, Any]]:
    """A card without its note, and the note; an empty one if the card has none."""
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
) -> ModelCard:
    """The card of a TwinFlow LoRA or of a whole TwinFlow model.

    Args:
        base_model: Hub id of the base, or `None` where it is on no Hub.
        license_fields: the base's `license`, and its `license_name` and `license_link` where it has them.
        samples: paths of images in the repository, to be shown in the text.
        widget: prompts by the path of an image of each, which the Hub shows at the top of the page.
        columns: labels of their columns; the default is 1, 2 and 4 steps.
        prompts, scores: as in `save_model_card`.
        scheduler: the repository's scheduler, for the code that uses stock diffusers alone.
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
        _stock(config, repo_id, base_model, scheduler),
        _training(config),
        _scores(scores),
        _license(config, license_fields),
    ]
    body = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n\n"
    return ModelCard(body + _card_note(body, scores, prompts))


def _widget(images: Mapping[str, str]) -> list[dict[str, Any]]:
    """Sample images with their prompts, in the Hub's format."""
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
    """The license fields of the base's card: of a local base's README.md, or of the base's page on the Hub.

    Without the Hub the cache is looked in. If there is no card, or its metadata cannot be read, there are none.
    """
    local = Path(directory, config.base_model)
    paths = [local / CARD_NAME]
    for name in (base_model, None if local.is_dir() else config.base_model):
        if name and _hub_id(name):
            revision = config.base_model_revision if name == config.base_model else None
            paths += _pulled_card(name, revision=revision, cache_dir=cache_dir, token=token)
    for path in paths:
        if path.is_file():
            data = _read_metadata(path)
            return {name: data[name] for name in LICENSE_FIELDS if isinstance(data.get(name), str)}
    return {}


def _read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of somebody else's card; a warning and none if it cannot be read."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning(f"The license of the base is not on the model card: '{path}' cannot be read ({reason}).")
        return {}


def _pulled_card(name: str, *, revision: str | None, cache_dir: str | Path | None, token: str | None) -> list[Path]:
    try:
        return [Path(hf_hub_download(name, CARD_NAME, revision=revision, cache_dir=cache_dir, token=token))]
    except Exception as error:  # the client's network errors share no class
        logger.info(f"the card of '{name}' was not pulled ({type(error).__name__}): looking in the cache")
    cached = try_to_load_from_cache(name, CARD_NAME, cache_dir=cache_dir, revision=revision)
    return [Path(cached)] if isinstance(cached, str) else []


def _hub_id(name: str) -> str | None:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and ".." not in name else None


def _plural(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _head(config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None) -> str:
    base = "a base model that is on no Hub"
    if base_model:
        base = f"[{_escape(base_model)}](https://huggingface.co/{quote(base_model)})"
    kind = "LoRA for" if config.train_type == LORA else "model distilled from"
    return (
        f"# {_escape(repo_id.split('/')[-1])}\n\nA [TwinFlow](https://huggingface.co/papers/2512.05150) {kind} {base}: "
        f"pictures in {_plural(config.num_inference_steps)} without classifier-free guidance."
    )


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
    """A value as one line of plain text, whatever Markdown or HTML is in it."""
    return SPECIAL.sub(r"\\\g<0>", _one_line(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(value: Any) -> str:
    """A value as one line of at most `MAX_VALUE_LENGTH` characters, without control characters."""
    text = " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 1] + "…"


def _quoted(text: str) -> str:
    """A text as a string of Python."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _use(config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None) -> str:
    is_lora = config.train_type == LORA
    base = "" if base_model or not is_lora else ', base_model="path/to/the/base"'
    family = FAMILIES[config.family]
    pipeline, output, result = family.pipeline_class.__name__, family.output_name, family.task.split("-")[-1]
    guidance_off = ", ".join(f"{name}={value}" for name, value in family.guidance_off.items())
    what, imports = 'prompt="your prompt"', ""
    if family.takes_reference_image:
        what, imports = f'image=load_image("before.png"), {what}', "from diffusers.utils import load_image\n"
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
    return f"""{text}

On a `{pipeline}` that you already have, beside other LoRAs:

```python
from diffusers_twinflow import load_twinflow_lora, unload_twinflow_lora

load_twinflow_lora(pipe, {_quoted(repo_id)})
{result} = pipe({what}, num_inference_steps={config.num_inference_steps}, {guidance_off}).{output}[0]
unload_twinflow_lora(pipe)
```"""


def _stock(
    config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None, scheduler: TwinFlowScheduler | None
) -> str:
    """How stock diffusers draws the same images, or why it cannot."""
    if config.portable is None or scheduler is None:
        return ""
    family, is_lora = FAMILIES[config.family], config.train_type == LORA
    use = stock_use(family, scheduler, Portable.from_dict(config.portable), config.max_sequence_length)
    title = "## Without this package"
    if isinstance(use, str):
        return f"{title}\n\n{use}"
    steps = config.num_inference_steps if config.num_inference_steps in use.sigmas else next(iter(use.sigmas))
    base = (base_model or "path/to/the/base") if is_lora else repo_id
    lora = f'pipe.load_lora_weights("{repo_id}")\n' if is_lora else ""
    return f"""{title}

Stock diffusers draws the same images. The target time of each step is part of the weights on the sampling grids below.

```python
import torch
from diffusers import {STOCK_SCHEDULER}
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
{import_code(family)}
pipe = DiffusionPipeline.from_pretrained("{base}", dtype=torch.bfloat16).to("cuda")
{lora}pipe.scheduler = {use.scheduler_code()}
{call_code(family, use.call_code(steps))}
```

{use.sigma_table()}"""


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
    """Whether a data set is a folder of this machine, which a card does not name."""
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
        return f"## License\n\nThe license of the base model holds for this {kind} too: see its page."
    return f"## License\n\nThat of the base model, from whose weights this {kind} was trained."
