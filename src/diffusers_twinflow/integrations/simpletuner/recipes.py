"""Translate a TwinFlow recipe for SimpleTuner to our training options."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...configuration import TwinFlowConfigError
from ...options import check_option_name, misspelled_option
from .data_backends import TranslatedData, size_options, translate_data_backends
from .defaults import (
    DEFAULTS,
    EMA_DECAY,
    FAMILIES,
    FLUX_LORA_TARGETS,
    LORA_DEFAULTS,
    NUM_TRAIN_EPOCHS,
    OPTIMIZER_DEFAULTS,
    QUANTIZATIONS,
    family_name,
)
from .option_names import REFUSED_IF_ON, RENAMED, SHARED, SWITCHES, WITHOUT_EFFECT, reason_without_effect

OFF: tuple[Any, ...] = (None, False, "", 0, "none", "null", "false", "0", [], {})
UNSET: tuple[Any, ...] = (None, False, "", "none", "null", [], {})
BASE = "pretrained_model_name_or_path"
TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "y", "on"), ("0", "false", "no", "n", "off")
QUANTIZE = "the base has the dtype of mixed_precision; to quantise it, use --quantize_base (torchao_int8, bnb_4bit)"


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
    one option that only SimpleTuner has. Options that such a recipe leaves out get SimpleTuner's defaults. The data set
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
        translated.pop("instance_prompt", None)  # the data set has its own prompt option
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
    for name, value in given.items():
        if name in CONTRADICTIONS:
            if given.get("twinflow_enabled"):
                CONTRADICTIONS[name](value)
            continue
        for target, new in _translate_option(name, value, known).items():
            if translated.setdefault(target, new) != new:
                raise TwinFlowConfigError(
                    f"'{name}' sets {target}={new!r}, but another option sets {translated[target]!r}. Keep one."
                )
    translated |= size_options("the recipe", given)
    translated |= _prompt_of_every_image(given)
    _choose_base(translated)
    steps = translated.pop("validation_num_inference_steps", None)
    if given.get("twinflow_enabled"):
        if steps:
            translated.setdefault("twinflow_target_step_count", steps)
    elif "ema_decay" in given and "twinflow_ema_decay" not in given:
        translated["flow_matching_ema_decay"] = translated.pop("twinflow_ema_decay")
    if given.get("validation_disable"):
        translated.pop("validation_prompts", None)
    if "base_model_precision" in given and translated.get("train_type", DEFAULTS["train_type"]) == "full":
        translated.pop("quantize_base", None)
    return translated


def _is_simpletuner(given: dict[str, Any], known: set[str]) -> bool:
    return any(name not in known | SHARED and _is_name_of_simpletuner(name) for name in given)


def _is_name_of_simpletuner(name: str) -> bool:
    return name in RENAMED.keys() | TRANSLATED.keys() | CONTRADICTIONS.keys() or bool(reason_without_effect(name))


def _defaults(given: dict[str, Any], translated: dict[str, Any]) -> dict[str, Any]:
    """Return SimpleTuner's defaults for options that a recipe leaves out."""
    defaults = dict(DEFAULTS)
    family = FAMILIES.get(family_name(str(given.get("model_family", ""))))
    if translated.get("train_type", defaults["train_type"]) == "lora":
        defaults |= LORA_DEFAULTS
        if family is not None:
            defaults["lora_layers"] = list(family.lora_layers)
    defaults |= OPTIMIZER_DEFAULTS[translated.get("optimizer", "adamw")]
    decay = "twinflow_ema_decay" if translated.get("twinflow_enabled") else "flow_matching_ema_decay"
    if translated.get("use_ema", translated.get("twinflow_enabled")):
        defaults[decay] = EMA_DECAY
    if not {"max_train_steps", "num_train_epochs"} & translated.keys():
        defaults["num_train_epochs"] = NUM_TRAIN_EPOCHS
    left_out = {name: value for name, value in defaults.items() if name not in translated}
    if family is not None and not given.get("pretrained_model_name_or_path") and not given.get("model_flavour"):
        left_out[BASE] = translated[BASE]
    return left_out


def _ignored(given: dict[str, Any], known: set[str]) -> dict[str, str]:
    taken = known | CONTRADICTIONS.keys() | TRANSLATED.keys() | RENAMED.keys()
    reasons = {
        name: reason
        for name, value in given.items()
        if name not in taken and value not in OFF and (reason := reason_without_effect(name))
    }
    if isinstance(given.get("optimizer"), str) and not _is_own_optimizer(given["optimizer"]):
        reasons["optimizer"] = "the optimizer is AdamW"
    if given.get("validation_resolution") not in OFF and not _validation_resolution(given["validation_resolution"]):
        reasons["validation_resolution"] = "no size is square, so validation images are squares of --resolution"
    precision = given.get("base_model_precision")
    if precision not in (*OFF, "no_change", "fp32", "fp16", "bf16"):
        if given.get("model_type", DEFAULTS["train_type"]) == "full":
            reasons["base_model_precision"] = "model_type is 'full', which trains the base unquantised"
        elif precision not in QUANTIZATIONS:
            reasons["base_model_precision"] = QUANTIZE
    return reasons


def _ignored_by_base(given: dict[str, Any]) -> dict[str, str]:
    """Return a reason if SimpleTuner trains this base with an additional LoRA, which is not loaded here."""
    family = FAMILIES.get(family_name(str(given.get("model_family", ""))))
    if family is None or given.get("pretrained_model_name_or_path") or given.get("disable_assistant_lora"):
        return {}
    flavour = given.get("model_flavour") or family.default
    if flavour not in family.training_adapters:
        return {}
    return {"model_flavour": f"the training adapter that SimpleTuner adds to '{flavour}' is not loaded"}


def _translate_option(name: str, value: Any, known: set[str]) -> dict[str, Any]:
    if name in TRANSLATED and name not in known - RETRANSLATED:
        return TRANSLATED[name](value)
    if name in known and name not in RENAMED:
        return {name: value}
    if name not in RENAMED:
        if reason_without_effect(name):
            return {}
        names = sorted({*RENAMED, *TRANSLATED, *CONTRADICTIONS, *WITHOUT_EFFECT, *known})
        if value in UNSET and misspelled_option(name, names) is None:
            return {}
        check_option_name(name, names)
    if name in SWITCHES:
        return {RENAMED[name]: _switch(name, value)}
    return {} if value in UNSET else {RENAMED[name]: value}


def _switch(name: str, value: Any) -> Any:
    """Read a boolean in any spelling, including 0 and 1."""
    word = str(value).strip().lower()
    if word in TRUE_WORDS + FALSE_WORDS and not isinstance(value, float):
        return word in TRUE_WORDS
    if value in UNSET:
        return False
    raise TwinFlowConfigError(f"{name}={value!r} must be true or false.")


def _choose_base(translated: dict[str, Any]) -> None:
    """Choose the base from family and flavour if the recipe does not name it."""
    family, flavour = translated.pop("model_family", None), translated.pop("model_flavour", None)
    if not family or translated.get("pretrained_model_name_or_path"):
        return
    found = FAMILIES.get(family_name(family))
    if found is None:
        raise TwinFlowConfigError(
            f"model_family={family!r} is not one of {', '.join(FAMILIES)}. Set "
            "pretrained_model_name_or_path to the base instead."
        )
    flavour = flavour or found.default
    if flavour not in found.flavours:
        raise TwinFlowConfigError(
            f"model_flavour={flavour!r} of {family} is not one of {', '.join(found.flavours)}. Set "
            "pretrained_model_name_or_path to the base instead."
        )
    translated["pretrained_model_name_or_path"] = found.flavours[flavour]


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


def _model_family(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise TwinFlowConfigError(f"model_family={value!r} must be a text, such as {', '.join(FAMILIES)}.")
    return {"model_family": value}


def _model_type(value: Any) -> dict[str, Any]:
    if value not in ("lora", "full"):
        raise TwinFlowConfigError(f"model_type={value!r} is not supported: it must be 'lora' or 'full'.")
    return {"train_type": value}


def _must_be_off(name: str, remedy: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if value not in OFF:
            raise TwinFlowConfigError(f"{name}={value!r} contradicts TwinFlow: {remedy}.")
        return {}

    return check


def _not_supported(name: str, remedy: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if value not in OFF:
            raise TwinFlowConfigError(f"{name}={value!r} is not supported: {remedy}.")
        return {}

    return check


def _guidance(name: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            value = _number(name, value)
        if value is not None and value != 0:
            raise TwinFlowConfigError(
                f"{name}={value!r} contradicts TwinFlow, which builds guidance into the weights. Set it to 0.0, and "
                "set twinflow_enhanced_ratio for the strength."
            )
        return {}

    return check


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise TwinFlowConfigError(f"{name}={value!r} must be a number.")
    return number


def _validation_steps(value: Any) -> dict[str, Any]:
    number = _number("validation_num_inference_steps", value)
    if number < 1 or number != int(number):
        raise TwinFlowConfigError(f"validation_num_inference_steps={value!r} must be a whole number of 1 or more.")
    return {"validation_num_inference_steps": int(number)}


def _optimizer(value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or value.lower().startswith(("dadapt", "prodigy_", "ao-prodigy")):
        raise TwinFlowConfigError(f"optimizer={value!r} is not supported: use 'adamw' or 'prodigy'.")
    return {"optimizer": value if _is_own_optimizer(value) else "adamw"}


def _is_own_optimizer(name: str) -> bool:
    return name in ("adamw", "prodigy")


def _lr_scheduler(value: Any) -> dict[str, Any]:
    if value == "sine":
        raise TwinFlowConfigError(
            "lr_scheduler='sine' is not supported: use 'cosine', or another schedule of diffusers."
        )
    return {"lr_scheduler": value}


def _loss_type(value: Any) -> dict[str, Any]:
    if value not in (None, "l2"):
        raise TwinFlowConfigError(f"loss_type={value!r} is not supported: set twinflow_loss to 'barron' or 'l2'.")
    return {}


def _lora_type(value: Any) -> dict[str, Any]:
    if value not in (None, "standard"):
        raise TwinFlowConfigError(f"lora_type={value!r} is not supported: a TwinFlow LoRA is 'standard'.")
    return {}


def _quantization(value: Any) -> dict[str, Any]:
    known = isinstance(value, str) and value in QUANTIZATIONS
    return {"quantize_base": QUANTIZATIONS[value]} if known else {}


def _lora_layers(value: Any) -> dict[str, Any]:
    """Read layer names from a list, a JSON list, or a text with commas."""
    if value in OFF:
        return {}
    names = value
    if isinstance(value, str):
        try:
            names = json.loads(value)
        except ValueError:
            names = [name.strip() for name in value.split(",")]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise TwinFlowConfigError(f"peft_lora_target_modules={value!r} is not valid: give a list of layer names.")
    return {"lora_layers": names}


def _flux_lora_target(value: Any) -> dict[str, Any]:
    if value in OFF:
        return {}
    if not isinstance(value, str) or value not in FLUX_LORA_TARGETS:
        raise TwinFlowConfigError(
            f"flux_lora_target={value!r} is not one of {', '.join(FLUX_LORA_TARGETS)}. Set lora_layers to the layer names instead."
        )
    return {"lora_layers": list(FLUX_LORA_TARGETS[value])}


def _validation_prompt(value: Any) -> dict[str, Any]:
    if value in OFF:
        return {}
    prompts = value if isinstance(value, list) else [value]
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise TwinFlowConfigError(f"validation_prompt={value!r} must be a text.")
    return {"validation_prompts": prompts}


def _unless_off(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {} if value in OFF else {name: value}


def _validation_resolution(value: Any) -> dict[str, Any]:
    """Return the side of the first square in sizes such as "1024x1024,1280x768", or nothing if none is square."""
    if value in OFF:
        return {}
    sizes = [size.strip().split("x") for size in str(value).lower().split(",")]
    if not all(len(sides) <= 2 and all(side.isdecimal() for side in sides) for sides in sizes):
        raise TwinFlowConfigError(f"validation_resolution={value!r} is not valid: give sizes such as 1024x1024.")
    squares = [int(sides[0]) for sides in sizes if len(set(sides)) == 1]
    return {"validation_resolution": squares[0]} if squares else {}


def _flavour(value: Any) -> dict[str, Any]:
    if value not in UNSET and not isinstance(value, str):
        raise TwinFlowConfigError(f"model_flavour={value!r} must be a text.")
    return {} if value in UNSET else {"model_flavour": value}


SCHEDULED_SAMPLING = "scheduled sampling must be off"
CONTRADICTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "distillation_method": _must_be_off("distillation_method", "it is another distillation method; leave it null"),
    "guidance_scale": _guidance("guidance_scale"),
    "scheduled_sampling": _must_be_off("scheduled_sampling", SCHEDULED_SAMPLING),
    "scheduled_sampling_max_step_offset": _must_be_off("scheduled_sampling_max_step_offset", SCHEDULED_SAMPLING),
    "scheduled_sampling_reflexflow": _must_be_off("scheduled_sampling_reflexflow", SCHEDULED_SAMPLING),
    "validation_guidance": _guidance("validation_guidance"),
    "validation_guidance_real": _guidance("validation_guidance_real"),
}
TRANSLATED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "base_model_precision": _quantization,
    "data_backend_config": lambda value: {},
    "disable_tf32": lambda value: {"allow_tf32": not _switch("disable_tf32", value)},
    "flux_lora_target": _flux_lora_target,
    "instance_prompt": lambda value: {"instance_prompt": value},
    "lora_type": _lora_type,
    "loss_type": _loss_type,
    "lr_scheduler": _lr_scheduler,
    "max_train_steps": _unless_off("max_train_steps"),
    "model_family": _model_family,
    "model_flavour": _flavour,
    "model_type": _model_type,
    "num_train_epochs": _unless_off("num_train_epochs"),
    "only_instance_prompt": lambda value: {},
    "optimizer": _optimizer,
    "peft_lora_target_modules": _lora_layers,
    "prepend_instance_prompt": lambda value: {},
    "resolution": lambda value: {},
    "validation_disable": lambda value: {},
    "validation_epoch_interval": _unless_off("validation_epochs"),
    "validation_num_inference_steps": _validation_steps,
    "validation_prompt": _validation_prompt,
    "validation_resolution": _validation_resolution,
    **{name: _not_supported(name, remedy) for name, remedy in REFUSED_IF_ON.items()},
}
# These names are also ours, but their values must be translated.
RETRANSLATED = {
    "lr_scheduler",
    "max_train_steps",
    "num_train_epochs",
    "optimizer",
    "resolution",
    "validation_prompt",
    "validation_resolution",
}
