"""The README.md of a TwinFlow repository, filled from its configuration and its sample pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusers.utils import logging
from huggingface_hub import ModelCard, ModelCardData, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..families import FAMILIES
from .files import CARD_NAME, CONDITIONING_NAME, SAMPLE_SUFFIXES, SAMPLES_FOLDER
from .repository import LORA, TwinFlowRepositoryConfig
from .samples import read_columns, read_prompts

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
    samples = sorted(p.name for p in (directory / SAMPLES_FOLDER).glob("*") if p.suffix.lower() in SAMPLE_SUFFIXES)
    is_local = (directory / config.base_model).is_dir()
    card = build_model_card(
        config,
        repo_id,
        base_model=base_model or (None if is_local else _hub_id(config.base_model)),
        license_fields=base_license(config, directory, base_model=base_model, cache_dir=cache_dir, token=token),
        samples=[f"{SAMPLES_FOLDER}/{name}" for name in samples],
        prompts=prompts or read_prompts(directory),
        columns=read_columns(directory),
        scores=scores,
        has_conditioning=config.train_type != LORA or (directory / CONDITIONING_NAME).is_file(),
    )
    card.save(directory / CARD_NAME)
    return card


def build_model_card(
    config: TwinFlowRepositoryConfig,
    repo_id: str,
    *,
    base_model: str | None = None,
    license_fields: Mapping[str, str] | None = None,
    samples: Sequence[str] = (),
    columns: Sequence[str] = (),
    prompts: Sequence[str] = (),
    scores: Mapping[str, float] | None = None,
    has_conditioning: bool = True,
) -> ModelCard:
    """The card of a TwinFlow LoRA or of a whole TwinFlow model.

    Args:
        base_model: Hub id of the base, or `None` where it is on no Hub.
        license_fields: the base's `license`, and its `license_name` and `license_link` where it has them.
        samples: paths of pictures in the repository.
        columns: labels of their columns; the default is 1, 2 and 4 steps.
        prompts, scores: as in `save_model_card`.
        has_conditioning: whether the repository holds a time conditioning.
    """
    family, task = config.family.replace("_", "-"), FAMILIES[config.family].task
    is_lora = config.train_type == LORA
    data = ModelCardData(
        base_model=base_model,
        library_name="diffusers",
        pipeline_tag=task,
        tags=["twinflow", *(["lora"] if is_lora else []), "diffusers", family, task],
        **(license_fields or {}),
        **({"base_model_relation": "adapter" if is_lora else "finetune"} if base_model else {}),
    )
    sections = [
        _head(config, repo_id, base_model),
        _pictures(samples, prompts, columns),
        _use(config, repo_id, base_model),
        _stock(config, repo_id, base_model, has_conditioning),
        _training(config),
        _scores(scores),
        _license(config, license_fields),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n")


def base_license(
    config: TwinFlowRepositoryConfig,
    directory: str | Path,
    *,
    base_model: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> dict[str, str]:
    """The license fields of the base's card: of a local base's README.md, or of the base's page on the Hub.

    Without the Hub the cache is looked in; where the card is nowhere, there are none.
    """
    local = Path(directory, config.base_model)
    paths = [local / CARD_NAME]
    for name in (base_model, None if local.is_dir() else config.base_model):
        if name and _hub_id(name):
            revision = config.base_model_revision if name == config.base_model else None
            paths += _pulled_card(name, revision=revision, cache_dir=cache_dir, token=token)
    for path in paths:
        if path.is_file():
            data = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
            return {name: data[name] for name in LICENSE_FIELDS if isinstance(data.get(name), str)}
    return {}


def _pulled_card(name: str, *, revision: str | None, cache_dir: str | Path | None, token: str | None) -> list[Path]:
    try:
        return [Path(hf_hub_download(name, CARD_NAME, revision=revision, cache_dir=cache_dir, token=token))]
    except (OSError, HfHubHTTPError) as error:
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
    base = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "a base model that is on no Hub"
    kind = "LoRA for" if config.train_type == LORA else "model distilled from"
    return (
        f"# {repo_id.split('/')[-1]}\n\nA [TwinFlow](https://huggingface.co/papers/2512.05150) {kind} {base}: "
        f"pictures in {_plural(config.num_inference_steps)} without classifier-free guidance."
    )


def _pictures(samples: Sequence[str], prompts: Sequence[str], columns: Sequence[str]) -> str:
    if not samples:
        return ""
    lines = [f"![{path}]({path})" for path in samples]
    if prompts:
        labels = "; ".join(map(_one_line, columns)) or "1, 2 and 4 steps"
        lines.append(f"Columns: {labels}. Rows, from the top:")
        lines.append("\n".join(f"{i}. {_one_line(prompt)}" for i, prompt in enumerate(prompts, 1)))
    return "## Samples\n\n" + "\n\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("`", "'").replace("<", "&lt;").replace("[", "\\[")


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

pipe = TwinFlowPipeline.from_pretrained("{repo_id}", torch_dtype=torch.bfloat16{base}).to("cuda")
{result} = pipe({what}, num_inference_steps={config.num_inference_steps}).{output}[0]
```"""
    if not is_lora:
        return text
    return f"""{text}

On a `{pipeline}` that you already have, beside other LoRAs:

```python
from diffusers_twinflow import load_twinflow_lora, unload_twinflow_lora

load_twinflow_lora(pipe, "{repo_id}")
{result} = pipe({what}, num_inference_steps={config.num_inference_steps}, {guidance_off}).{output}[0]
unload_twinflow_lora(pipe)
```"""


def _stock(config: TwinFlowRepositoryConfig, repo_id: str, base_model: str | None, has_conditioning: bool) -> str:
    missing = "the few-step scheduler"
    if has_conditioning:
        missing = "the time conditioning (the target time of each step), and " + missing
    if config.train_type != LORA:
        return f"""## Without the package

`DiffusionPipeline.from_pretrained("{repo_id}")` in stock diffusers loads the weights. Missing are then {missing}."""
    return f"""## Without the package

`pipe.load_lora_weights("{repo_id}")` in stock diffusers loads the low-rank weights with their alpha. Missing are \
then {missing}: pictures in few steps are worse than those above. Set `guidance_scale=0.0` there too."""


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
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value is not None)
    return f"## Training\n\n| | |\n|---|---|\n{table}"


def _is_local(dataset_name: object) -> bool:
    """Whether a data set is a folder of this machine, which a card does not name."""
    return not isinstance(dataset_name, str) or not _hub_id(dataset_name) or Path(dataset_name).exists()


def _scores(scores: Mapping[str, float] | None) -> str:
    if not scores:
        return ""
    return "## Scores\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value:.4g} |" for name, value in scores.items())


def _license(config: TwinFlowRepositoryConfig, license_fields: Mapping[str, str] | None) -> str:
    kind = "LoRA" if config.train_type == LORA else "model"
    if not license_fields:
        return f"## License\n\nThe license of the base model holds for this {kind} too: see its page."
    return f"## License\n\nThat of the base model, from whose weights this {kind} was trained."
