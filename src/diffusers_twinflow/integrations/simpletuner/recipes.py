"""Translate a TwinFlow recipe for SimpleTuner to our training options."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...configuration import TwinFlowConfigError
from ...options import check_option_name, misspelled_option
from .base_models import base_of, simpletuner_family
from .data_backends import TranslatedData, size_options, translate_data_backends
from .defaults import DEFAULTS, EMA_DECAY, LORA_DEFAULTS, NUM_TRAIN_EPOCHS, OPTIMIZER_DEFAULTS
from .option_table import RENAMED, TABLE, treatment_of
from .treatments import OFF, Converted, Ignored, Refused, Renamed, is_unset

BASE = "pretrained_model_name_or_path"
SHARED = {
    *(treatment.to for treatment in RENAMED.values()),
    "caption_strategy",
    "checkpointing_steps",
    "distillation_method",
    "guidance_scale",
    "instance_prompt",
    "local_rank",
    "lr_scheduler",
    "max_grad_norm",
    "max_train_steps",
    "num_train_epochs",
    "optimizer",
    "resolution",
    "scheduled_sampling",
    "tracker_project_name",
    "trust_remote_code",
    "validation_prompt",
    "validation_resolution",
    "validation_steps",
}
"""Names that both tools use, so they do not tell which tool a recipe is for."""


@dataclass(frozen=True)
class TranslatedRecipe:
    """A translated recipe.

    Attributes:
        options: our training options, including SimpleTuner's defaults if it is a SimpleTuner recipe.
        ignored: options of the recipe that have no effect here, with the reason by name.
        defaults: the part of `options` that comes from SimpleTuner's defaults.
    """

    options: dict[str, Any]
    ignored: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


def read_recipe(
    options: dict[str, Any], known: Iterable[str] = (), *, directory: str | Path | None = None
) -> TranslatedRecipe:
    """Translate a TwinFlow recipe for SimpleTuner. A recipe of this package does not change.

    Keys may start with dashes, and a key with the value null is ignored. A recipe is for SimpleTuner if it has at least
    one option that only SimpleTuner has. Options that such a recipe leaves out get SimpleTuner's defaults. The dataset
    in `data_backend_config` is translated too, and its options override the options of the recipe.

    Args:
        options: JSON object of the recipe.
        known: names of our options, which are not translated. If the recipe has any of them, no defaults are added.
        directory: folder of the recipe, for relative paths that do not exist in the working directory.

    Raises:
        TwinFlowConfigError: if a key is unknown (the message suggests the closest name), is given twice, contradicts
            TwinFlow or cannot be translated.
    """
    given, known = _given(options), set(known)
    data = _data(given, directory)
    translated = _translated(given, known)
    if data.options:
        translated.pop("instance_prompt", None)  # the dataset has its own prompt option
    translated |= data.options
    ignored = _ignored(given, known)
    defaults = {}
    if _is_simpletuner(given, known):
        defaults = {n: v for n, v in _defaults(given, translated).items() if not known or n in known | {BASE}}
        ignored |= _ignored_by_base(given)
    return TranslatedRecipe(defaults | translated, ignored | data.ignored, defaults)


def translate_recipe(
    options: dict[str, Any], known: Iterable[str] = (), *, directory: str | Path | None = None
) -> dict[str, Any]:
    """Translate a recipe and return our training options, see `read_recipe`."""
    return read_recipe(options, known, directory=directory).options


def ignored_options(
    options: dict[str, Any], known: Iterable[str] = (), *, directory: str | Path | None = None
) -> dict[str, str]:
    """Return the options of a recipe that have no effect here, with the reason by name, see `read_recipe`."""
    return read_recipe(options, known, directory=directory).ignored


def _translated(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    translated: dict[str, Any] = {}
    has_twinflow = bool(given.get("twinflow_enabled"))
    for name in sorted(given, key=lambda name: name != "model_family"):  # without a base, no other option matters
        value = given[name]
        for target, new in _translate_option(name, value, known, has_twinflow).items():
            if translated.setdefault(target, new) != new:
                raise TwinFlowConfigError(
                    f"'{name}' sets {target}={new!r}, but another option sets {translated[target]!r}. Keep one."
                )
    translated |= size_options("the recipe", {name: value for name, value in given.items() if not is_unset(value)})
    translated |= _prompt_of_every_image(given)
    _choose_base(translated)
    steps = translated.pop("validation_num_inference_steps", None)
    if has_twinflow:
        if steps:
            translated.setdefault("twinflow_target_step_count", steps)
    elif "twinflow_ema_decay" in translated and "twinflow_ema_decay" not in given:
        translated["flow_matching_ema_decay"] = translated.pop("twinflow_ema_decay")
    if given.get("validation_disable"):
        translated.pop("validation_prompts", None)
    if "base_model_precision" in given and translated.get("train_type", DEFAULTS["train_type"]) == "full":
        translated.pop("quantize_base", None)
    return translated


def _is_simpletuner(given: dict[str, Any], known: set[str]) -> bool:
    return any(name not in known | SHARED and treatment_of(name) is not None for name in given)


def _defaults(given: dict[str, Any], translated: dict[str, Any]) -> dict[str, Any]:
    """Return SimpleTuner's defaults for options that a recipe leaves out."""
    defaults = dict(DEFAULTS)
    family = simpletuner_family(str(given.get("model_family", "")))
    if translated.get("train_type", defaults["train_type"]) == "lora":
        defaults |= LORA_DEFAULTS
        if family is not None and family.lora_layers:
            defaults["lora_layers"] = list(family.lora_layers)
    defaults |= OPTIMIZER_DEFAULTS[translated.get("optimizer", "adamw")]
    decay = "twinflow_ema_decay" if translated.get("twinflow_enabled") else "flow_matching_ema_decay"
    if translated.get("use_ema", translated.get("twinflow_enabled")):
        defaults[decay] = EMA_DECAY
    if not {"max_train_steps", "num_train_epochs"} & translated.keys():
        defaults["num_train_epochs"] = NUM_TRAIN_EPOCHS
    left_out = {name: value for name, value in defaults.items() if name not in translated}
    if family is not None and not given.get(BASE) and not given.get("model_flavour"):
        left_out[BASE] = translated[BASE]
    return left_out


def _ignored(given: dict[str, Any], known: set[str]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for name, value in given.items():
        treatment = treatment_of(name)
        if _is_ours(name, known) or value in OFF:
            continue
        if isinstance(treatment, Ignored):
            reasons[name] = treatment.reason
        elif isinstance(treatment, Converted) and (reason := treatment.note(value, given)):
            reasons[name] = reason
    return reasons


def _ignored_by_base(given: dict[str, Any]) -> dict[str, str]:
    """Return a reason if SimpleTuner trains this base with an additional LoRA, which is not loaded here."""
    family = simpletuner_family(str(given.get("model_family", "")))
    if family is None or given.get(BASE) or given.get("disable_assistant_lora"):
        return {}
    flavour = given.get("model_flavour") or family.default
    if flavour not in family.training_adapters:
        return {}
    return {"model_flavour": f"the training adapter that SimpleTuner adds to '{flavour}' is not loaded"}


def _is_ours(name: str, known: set[str]) -> bool:
    """Return whether a name is one of our options, whose value is not translated."""
    treatment = treatment_of(name)
    if isinstance(treatment, Renamed) or (isinstance(treatment, Converted) and treatment.always):
        return False
    return name in known


def _translate_option(name: str, value: Any, known: set[str], has_twinflow: bool) -> dict[str, Any]:
    treatment = treatment_of(name)
    if isinstance(treatment, (Converted, Refused)) and treatment.with_twinflow:
        return treatment.translate(name, value) if has_twinflow else {}
    if _is_ours(name, known):
        return {} if treatment is not None and is_unset(value) else {name: value}
    if treatment is not None:
        return treatment.translate(name, value)
    names = sorted({*TABLE, *known})
    if not is_unset(value) or misspelled_option(name, names) is not None:
        check_option_name(name, names)
    return {}


def _choose_base(translated: dict[str, Any]) -> None:
    """Choose the base from family and flavour if the recipe does not name it."""
    family, flavour = translated.pop("model_family", None), translated.pop("model_flavour", None)
    if not family:
        return
    if not translated.get(BASE):
        translated[BASE] = base_of(family, flavour)


def _prompt_of_every_image(given: dict[str, Any]) -> dict[str, Any]:
    """Translate `only_instance_prompt` for a folder that the recipe names."""
    if not given.get("only_instance_prompt") or given.get("data_backend_config"):
        return {}
    prompt = given.get("instance_prompt")
    if not isinstance(prompt, str) or not prompt:
        raise TwinFlowConfigError(
            f"only_instance_prompt=true needs a prompt for all images, but instance_prompt={prompt!r}. Set it."
        )
    return {"caption_strategy": "instance_prompt", "instance_prompt": prompt}


def _data(given: dict[str, Any], directory: str | Path | None) -> TranslatedData:
    path = given.get("data_backend_config")
    if path in OFF:
        return TranslatedData()
    if not isinstance(path, str) or "\0" in path:
        raise TwinFlowConfigError(f"data_backend_config={path!r} must be the path of a JSON file.")
    return translate_data_backends(path, directory=directory, defaults=given)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's options without dashes and null values. "true" and "false" become booleans."""
    given: dict[str, Any] = {}
    for key, value in options.items():
        name = key.lstrip("-").replace("-", "_")
        if name in given:
            raise TwinFlowConfigError(f"'{name}' is given twice: keep one.")
        given[name] = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    return {name: value for name, value in given.items() if value is not None}
