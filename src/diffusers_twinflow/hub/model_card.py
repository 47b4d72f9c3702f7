"""Write the README.md (model card) of a TwinFlow repository from its configuration and its sample images."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import ModelCard, ModelCardData

from ..families import FAMILIES
from ..schedulers import TwinFlowScheduler
from ..writing import write_file
from .card_base import absent_components, base_license, hub_id_of
from .card_sections import (
    head_section,
    license_section,
    one_line,
    samples_section,
    scores_section,
    stock_section,
    training_section,
    use_section,
)
from .files import CARD_NAME, SAMPLES_FOLDER, SCHEDULER_NAME, read_json
from .repository import LORA, TwinFlowRepositoryConfig
from .sample_images import read_columns, read_prompt, read_prompts, sample_names

NOTE_START, NOTE_END = "<!-- diffusers-twinflow ", " -->\n"


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
        base_model=base_model or (None if is_local else hub_id_of(config.base_model)),
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
        head_section(config, repo_id, base_model),
        samples_section(samples, prompts, columns),
        use_section(config, repo_id, base_model),
        stock_section(config, repo_id, base_model, scheduler, absent),
        training_section(config),
        scores_section(scores),
        license_section(config, license_fields),
    ]
    body = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n\n"
    return ModelCard(body + _card_note(body, scores, prompts))


def _widget(images: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the sample images with their prompts in the Hub's widget format."""
    return [{"text": one_line(prompt), "output": {"url": quote(path)}} for path, prompt in images.items()]


def _scheduler(directory: Path) -> TwinFlowScheduler | None:
    path = directory / SCHEDULER_NAME
    return TwinFlowScheduler.from_config(read_json(path, name=SCHEDULER_NAME)) if path.is_file() else None
