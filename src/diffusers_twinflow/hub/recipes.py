"""A user's TwinFlow recipe for SimpleTuner, in the names of our training script."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError, check_option_name
from .data_backends import TranslatedData, size_options, translate_data_backends
from .recipe_names import (
    FAMILY_BASES,
    FAMILY_NAMES,
    FLAVOURS,
    REFUSED_WHERE_ON,
    RENAMED,
    WITHOUT_EFFECT,
    reason_without_effect,
)

OFF = (None, False, "", 0, "none", "null", "false", "0", [], {})


def translate_recipe(
    options: dict[str, Any], known: Iterable[str] = (), *, directory: str | Path | None = None
) -> dict[str, Any]:
    """Options of our training script that say what a TwinFlow recipe for SimpleTuner says.

    Keys may carry leading dashes. What has no meaning here is left out: `ignored_options` names it and says why. The
    data set that `data_backend_config` names is translated too; what it says wins over the recipe's own options.

    Args:
        options: the recipe's JSON object.
        known: options of our script that stay as they are, so that its own recipes come out unchanged.
        directory: where the recipe is, for the paths in it that the working directory has not.

    Raises:
        TwinFlowConfigError: for a key that is unknown, with the nearest one that is known, for one given twice, and for
            one that contradicts TwinFlow or has no counterpart.
    """
    given, known = _without_dashes(options), set(known)
    translated: dict[str, Any] = {}
    for name, value in given.items():
        if name in CONTRADICTIONS:
            if given.get("twinflow_enabled"):
                CONTRADICTIONS[name](value)
            continue
        for target, new in _translate_option(name, value, known).items():
            if translated.setdefault(target, new) != new:
                raise TwinFlowConfigError(f"'{name}' says {target}={new!r}, another option {translated[target]!r}.")
    translated |= size_options("the recipe", given)
    _choose_base(translated)
    steps = translated.pop("validation_num_inference_steps", None)
    if steps and given.get("twinflow_enabled"):
        translated.setdefault("twinflow_target_step_count", steps)
    return translated | _data(given, directory).options


def ignored_options(options: dict[str, Any], known: Iterable[str] = (), *, directory=None) -> dict[str, str]:
    """What `translate_recipe` leaves out of a recipe, with the reason, by name; arguments as there."""
    given, known = _without_dashes(options), set(known)
    reasons = {
        name: reason_without_effect(name)
        for name, value in given.items()
        if name not in known | CONTRADICTIONS.keys() | TRANSLATED.keys() | RENAMED.keys() and value not in OFF
    }
    if isinstance(given.get("optimizer"), str) and not _is_own_optimizer(given["optimizer"]):
        reasons["optimizer"] = "the optimizer is AdamW"
    reasons |= _data(given, directory).ignored
    return {name: reason for name, reason in reasons.items() if reason}


def _translate_option(name: str, value: Any, known: set[str]) -> dict[str, Any]:
    if name in TRANSLATED:
        return TRANSLATED[name](value)
    if name in known and name not in RENAMED:
        return {name: value}
    if reason_without_effect(name) and name not in RENAMED:
        return {}
    check_option_name(name, sorted({*RENAMED, *TRANSLATED, *CONTRADICTIONS, *WITHOUT_EFFECT, *known}))
    return {RENAMED[name]: value}


def _choose_base(translated: dict[str, Any]) -> None:
    """Name the base by family and flavour where the recipe does not."""
    family, flavour = translated.pop("model_family", None), translated.pop("model_flavour", None)
    if not family or translated.get("pretrained_model_name_or_path"):
        return
    if family not in FAMILY_BASES:
        raise TwinFlowConfigError(
            f"model_family={family!r} is none of {', '.join(FAMILY_BASES)}: name the base with "
            "pretrained_model_name_or_path."
        )
    if flavour and (family, flavour) not in FLAVOURS:
        names = ", ".join(known for of, known in FLAVOURS if of == family)
        raise TwinFlowConfigError(
            f"model_flavour={flavour!r} of {family} is none of {names}: name it with pretrained_model_name_or_path."
        )
    translated["pretrained_model_name_or_path"] = FLAVOURS[family, flavour] if flavour else FAMILY_BASES[family]


def _data(given: dict[str, Any], directory: str | Path | None) -> TranslatedData:
    path = given.get("data_backend_config")
    if path in OFF:
        return TranslatedData()
    if not isinstance(path, str) or "\0" in path:
        raise TwinFlowConfigError(f"data_backend_config={path!r} must be the path of a JSON file.")
    return translate_data_backends(path, directory=directory, defaults=given)


def _without_dashes(options: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in options.items():
        name = key.lstrip("-").replace("-", "_")
        if name in given:
            raise TwinFlowConfigError(f"'{name}' is given twice: keep one.")
        given[name] = value
    return given


def _model_family(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise TwinFlowConfigError(f"model_family={value!r} must be a text, such as {', '.join(FAMILY_BASES)}.")
    return {"model_family": FAMILY_NAMES.get(value, value)}


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


def _not_supported(name: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if value not in OFF:
            raise TwinFlowConfigError(f"{name}={value!r} is not supported: leave it out.")
        return {}

    return check


def _guidance(name: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            value = _number(name, value)
        if value is not None and value != 0:
            raise TwinFlowConfigError(
                f"{name}={value!r} contradicts TwinFlow, whose weights hold the guidance: set it to 0.0, and "
                "twinflow_enhanced_ratio for its strength."
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
        raise TwinFlowConfigError("lr_scheduler='sine' is not supported: use 'cosine', or another of diffusers'.")
    return {"lr_scheduler": value}


def _loss_type(value: Any) -> dict[str, Any]:
    if value not in (None, "l2"):
        raise TwinFlowConfigError(f"loss_type={value!r} is not supported: set twinflow_loss to 'barron' or 'l2'.")
    return {}


def _lora_type(value: Any) -> dict[str, Any]:
    if value not in (None, "standard"):
        raise TwinFlowConfigError(f"lora_type={value!r} is not supported: a TwinFlow LoRA is 'standard'.")
    return {}


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
    """The side of the first square among sizes such as "1024x1024,1280x768"."""
    if value in OFF:
        return {}
    for size in str(value).lower().split(","):
        sides = size.strip().split("x")
        if all(side.isdecimal() for side in sides) and len(set(sides)) == 1 and len(sides) <= 2:
            return {"validation_resolution": int(sides[0])}
    raise TwinFlowConfigError(f"validation_resolution={value!r} has no square size such as 1024x1024: add one.")


def _flavour(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, str):
        raise TwinFlowConfigError(f"model_flavour={value!r} must be a text.")
    return {"model_flavour": value} if value else {}


SCHEDULED_SAMPLING = "scheduled sampling must be off"
CONTRADICTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "distillation_method": _must_be_off("distillation_method", "it is a distillation of its own; leave it null"),
    "guidance_scale": _guidance("guidance_scale"),
    "scheduled_sampling": _must_be_off("scheduled_sampling", SCHEDULED_SAMPLING),
    "scheduled_sampling_max_step_offset": _must_be_off("scheduled_sampling_max_step_offset", SCHEDULED_SAMPLING),
    "scheduled_sampling_reflexflow": _must_be_off("scheduled_sampling_reflexflow", SCHEDULED_SAMPLING),
    "validation_guidance": _guidance("validation_guidance"),
    "validation_guidance_real": _guidance("validation_guidance_real"),
}
TRANSLATED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "data_backend_config": lambda value: {},
    "lora_type": _lora_type,
    "loss_type": _loss_type,
    "lr_scheduler": _lr_scheduler,
    "max_train_steps": _unless_off("max_train_steps"),
    "model_family": _model_family,
    "model_flavour": _flavour,
    "model_type": _model_type,
    "num_train_epochs": _unless_off("num_train_epochs"),
    "optimizer": _optimizer,
    "resolution": lambda value: {},
    "validation_epoch_interval": _unless_off("validation_epochs"),
    "validation_num_inference_steps": _validation_steps,
    "validation_prompt": _validation_prompt,
    "validation_resolution": _validation_resolution,
    **{name: _not_supported(name) for name in REFUSED_WHERE_ON},
}
