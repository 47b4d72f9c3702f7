"""Convert values of SimpleTuner's options to values of our options."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ...configuration import TwinFlowConfigError
from .base_models import FLUX_LORA_TARGETS, check_trainable
from .defaults import DEFAULTS
from .treatments import OFF, shown, switch

QUANTIZATIONS = {"int8-quanto": "torchao_int8", "int8-torchao": "torchao_int8", "nf4-bnb": "bnb_4bit"}
UNQUANTIZED = ("no_change", "fp32", "fp16", "bf16")
OWN_OPTIMIZERS = ("adamw", "prodigy")
REFUSED_OPTIMIZERS = ("dadapt", "prodigy_", "ao-prodigy")
LORA_TYPES = ("standard", "lycoris")
NEVER = 1_000_000_000
"""More steps than a run has, and a larger norm than gradients have, for values of 0 that switch something off."""

Convert = Callable[[Any], dict[str, Any]]


def nothing(value: Any) -> dict[str, Any]:
    """Convert an option that is read together with another one."""
    return {}


def unchanged(name: str) -> Convert:
    """Convert to our option `name` with the same value."""
    return lambda value: {name: value}


def unless_off(name: str) -> Convert:
    """Convert to our option `name` with the same value, unless it is off."""
    return lambda value: {} if value in OFF else {name: value}


def never_at_zero(name: str) -> Convert:
    """Convert to our option `name`, where 0 means never."""
    return lambda value: {name: NEVER if value in (0, "0") else value}


def opposite(name: str, other: str) -> Convert:
    """Convert a switch `name` to our switch `other`, which means the opposite."""
    return lambda value: {other: not switch(name, value)}


def no_guidance(name: str) -> Convert:
    """Check that a guidance of our own call is 0."""

    def check(value: Any) -> dict[str, Any]:
        if number(name, value) != 0:
            raise TwinFlowConfigError(
                f"{name}={value!r} contradicts TwinFlow, which builds guidance into the weights. Set it to 0.0, and "
                "set twinflow_enhanced_ratio for the strength."
            )
        return {}

    return check


def number(name: str, value: Any) -> float:
    """Read a finite number, which may be a text.

    Raises:
        TwinFlowConfigError: if the value is none.
    """
    try:
        read = float(value)
    except (TypeError, ValueError):
        read = math.nan
    if isinstance(value, bool) or not math.isfinite(read):
        raise TwinFlowConfigError(f"{name}={shown(value)} must be a number.")
    return read


def model_family(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise TwinFlowConfigError(f"model_family={shown(value)} must be a string, such as 'sd3'.")
    if value:
        check_trainable(value)
    return {"model_family": value}


def model_flavour(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise TwinFlowConfigError(f"model_flavour={shown(value)} must be a string.")
    return {"model_flavour": value}


def model_type(value: Any) -> dict[str, Any]:
    if value not in ("lora", "full"):
        raise TwinFlowConfigError(f"model_type={shown(value)} is not supported: it must be 'lora' or 'full'.")
    return {"train_type": value}


def validation_steps(value: Any) -> dict[str, Any]:
    steps = number("validation_num_inference_steps", value)
    if steps < 1 or steps != int(steps):
        raise TwinFlowConfigError(f"validation_num_inference_steps={value!r} must be a whole number of 1 or more.")
    return {"validation_num_inference_steps": int(steps)}


def optimizer(value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or value.lower().startswith(REFUSED_OPTIMIZERS):
        raise TwinFlowConfigError(f"optimizer={shown(value)} is not supported: use 'adamw' or 'prodigy'.")
    return {"optimizer": value if value in OWN_OPTIMIZERS else "adamw"}


def optimizer_note(value: Any, given: Mapping[str, Any]) -> str | None:
    return None if value in OWN_OPTIMIZERS else "the optimizer is AdamW"


def lr_scheduler(value: Any) -> dict[str, Any]:
    if value == "sine":
        raise TwinFlowConfigError(
            "lr_scheduler='sine' is not supported: use 'cosine', or another schedule of diffusers."
        )
    return {"lr_scheduler": value}


def loss_type_note(value: Any, given: Mapping[str, Any]) -> str | None:
    return None if value == "l2" else "twinflow_loss sets the loss"


def lora_type(value: Any) -> dict[str, Any]:
    if value not in (*OFF, *LORA_TYPES):
        raise TwinFlowConfigError(f"lora_type={shown(value)} is not one of {', '.join(LORA_TYPES)}. Use 'standard'.")
    return {}


def lora_type_note(value: Any, given: Mapping[str, Any]) -> str | None:
    if value != "lycoris":
        return None
    return "a LoRA of the rank in lora_rank is trained, because LyCORIS adapters are not supported"


def start_lora(name: str) -> Convert:
    """Convert a LoRA `name` from which training starts to a LoRA that is merged into the base."""

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, str):
            raise TwinFlowConfigError(f"{name}={shown(value)} must be a string: the path or the Hub id of a LoRA.")
        return {"base_loras": [value]}

    return convert


def start_lora_note(value: Any, given: Mapping[str, Any]) -> str | None:
    return "this LoRA is merged into the base, and a new LoRA is trained on it; the result needs both"


def quantization(value: Any) -> dict[str, Any]:
    known = isinstance(value, str) and value in QUANTIZATIONS
    return {"quantize_base": QUANTIZATIONS[value]} if known else {}


def quantization_note(value: Any, given: Mapping[str, Any]) -> str | None:
    if value in (*OFF, *UNQUANTIZED):
        return None
    if given.get("model_type", DEFAULTS["train_type"]) == "full":
        return "model_type is 'full', which trains the base unquantized"
    if value in QUANTIZATIONS:
        return None
    return "the base has the dtype of mixed_precision; to quantize it, use --quantize_base (torchao_int8, bnb_4bit)"


def lora_layers(value: Any) -> dict[str, Any]:
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
        raise TwinFlowConfigError(f"peft_lora_target_modules={shown(value)} is not valid: give a list of layer names.")
    return {"lora_layers": names}


def flux_lora_target(value: Any) -> dict[str, Any]:
    if value in OFF:
        return {}
    if not isinstance(value, str) or value not in FLUX_LORA_TARGETS:
        raise TwinFlowConfigError(
            f"flux_lora_target={shown(value)} is not one of {', '.join(FLUX_LORA_TARGETS)}. Set lora_layers to the "
            "layer names instead."
        )
    return {"lora_layers": list(FLUX_LORA_TARGETS[value])}


def validation_prompt(value: Any) -> dict[str, Any]:
    if value in OFF:
        return {}
    prompts = value if isinstance(value, list) else [value]
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise TwinFlowConfigError(f"validation_prompt={shown(value)} must be a string.")
    return {"validation_prompts": prompts}


def validation_resolution(value: Any) -> dict[str, Any]:
    """Return the side of the first square in sizes such as "1024x1024,1280x768", or nothing if none is square."""
    if value in OFF:
        return {}
    sizes = [size.strip().split("x") for size in str(value).lower().split(",")]
    if not all(len(sides) <= 2 and all(side.isdecimal() for side in sides) for sides in sizes):
        raise TwinFlowConfigError(f"validation_resolution={shown(value)} is not valid: give sizes such as 1024x1024.")
    squares = [int(sides[0]) for sides in sizes if len(set(sides)) == 1]
    return {"validation_resolution": squares[0]} if squares else {}


def validation_resolution_note(value: Any, given: Mapping[str, Any]) -> str | None:
    if value in OFF or validation_resolution(value):
        return None
    return "no size is square, so validation images are squares of --resolution"
