"""Check the scheduler's options and carry them through the configs of other scheduler classes."""

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from ..diff2flow import DIFFUSION_PREDICTION_TYPES
from .prediction import PREDICTION_TYPES, spell_out_schedule

SAMPLING_STYLES = ("few", "any", "multi")
OPTIONS_OF_A_STYLE = ("stochastic_ratio", "gap_end", "kumaraswamy")
"""Options whose default depends on the sampling style."""
WHOLE_NUMBERS = ("num_train_timesteps", "sampling_order", "noise_seed", "base_image_seq_len", "max_image_seq_len")
NUMBERS = ("shift", "gap_start", "extrapolation_ratio", "beta_start", "beta_end")
MOST_TIMESTEPS = 1_000_000

CARRIED = "_twinflow_options"
FLOW_SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "FlowMapEulerDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
)
DIFFUSION_SCHEDULERS = tuple(kind.name for kind in KarrasDiffusionSchedulers)

# The names here of the options of SimpleTuner's TwinFlowScheduler, and SimpleTuner's defaults.
SIMPLETUNER_NAMES = {
    "time_dist_ctrl": "kumaraswamy",
    "rfba_gap_start": "gap_start",
    "rfba_gap_end": "gap_end",
    "stochast_ratio": "stochastic_ratio",
}
SIMPLETUNER_DEFAULTS = {"time_dist_ctrl": None, "rfba_gap_start": 0.001, "rfba_gap_end": 0.0, "stochast_ratio": 1.0}
SIMPLETUNER_GAP_END = [0.6, 0.6, 0.5, 0.5, 0.3]  # the meaning of its rfba_gap_end=0.0, by number of steps


def is_number(value: Any) -> bool:
    """Whether a value is a finite number. `True` and `False` are not numbers here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole_numbers(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the whole-number options that came as floats, as integers. Some JSON writers turn 1000 into 1000.0.

    Raises:
        ValueError: if one of these options is not a whole number; the message names it.
    """
    changed = {}
    for name in WHOLE_NUMBERS:
        value = config[name]
        if not is_number(value) or value != int(value):
            raise ValueError(f"{name}={value!r} is not valid: it must be a whole number.")
        if not isinstance(value, int):
            changed[name] = int(value)
    return changed


def check_options(config: Mapping[str, Any]) -> None:
    """Raise a `ValueError` that names the first invalid option of a scheduler's config and says what is valid."""
    for name in NUMBERS:
        if not is_number(config[name]):
            raise ValueError(f"{name}={config[name]!r} is not valid: it must be a number.")
    ratio, warp, gap_start = config["stochastic_ratio"], config["kumaraswamy"], config["gap_start"]
    gap_ends = config["gap_end"] if isinstance(config["gap_end"], (list, tuple)) else [config["gap_end"]]
    rules = {
        "num_train_timesteps": (
            1 <= config["num_train_timesteps"] <= MOST_TIMESTEPS,
            f"a whole number from 1 to {MOST_TIMESTEPS}",
        ),
        "prediction_type": (config["prediction_type"] in PREDICTION_TYPES, f"one of {PREDICTION_TYPES}"),
        "shift": (config["shift"] > 0, "above 0; 1 is no shift"),
        "sampling_style": (config["sampling_style"] in SAMPLING_STYLES, f"one of {SAMPLING_STYLES}"),
        "stochastic_ratio": (
            ratio is None or ratio == "sde" or (is_number(ratio) and 0 <= ratio <= 1),
            "in [0, 1], 'sde', or None for the default of the sampling style",
        ),
        "gap_start": (0 <= gap_start < 1, "in [0, 1)"),
        "gap_end": (
            gap_ends == [None] or (gap_ends and all(is_number(end) and 0 <= end < 1 - gap_start for end in gap_ends)),
            "in [0, 1 - gap_start), so they do not cross, or a list of such numbers by step count",
        ),
        "kumaraswamy": (
            warp is None
            or (isinstance(warp, (list, tuple)) and len(warp) == 3 and all(is_number(x) and x > 0 for x in warp)),
            "three numbers above 0, or None for the default of the sampling style",
        ),
        "extrapolation_ratio": (0 <= config["extrapolation_ratio"] <= 1, "in [0, 1]"),
        "sampling_order": (config["sampling_order"] in (1, 2), "1 or 2"),
        "noise_seed": (0 <= config["noise_seed"] < 2**32, "in [0, 2**32)"),
    }
    for name, (allowed, remedy) in rules.items():
        if not allowed:
            raise ValueError(f"{name}={config[name]!r} is not valid: it must be {remedy}.")
    if config["prediction_type"] in DIFFUSION_PREDICTION_TYPES:
        for name in ("invert_sigmas", "squeeze_target_time"):
            if config[name]:
                raise ValueError(
                    f"{name}=True is not valid with prediction_type={config['prediction_type']!r}: set it to False."
                )
    if config["sampling_order"] == 2 and gap_start == 0:
        raise ValueError("gap_start=0 is not valid with sampling_order=2, which divides by it: set gap_start=0.001.")


def shift_of(config: Mapping[str, Any]) -> float | None:
    """Return the static shift in a flow-matching scheduler's config, under either of its names.

    Args:
        config: config of any diffusers scheduler. Multistep schedulers call the shift `flow_shift`, flow-matching ones
            `shift`. If the config has both, a `shift` that was set explicitly wins.

    Returns:
        The shift, or `None` if the config has none.
    """
    was_set = "shift" in config and "shift" not in config.get("_use_default_values", [])
    if not was_set and config.get("use_flow_sigmas") and config.get("flow_shift") is not None:
        return config["flow_shift"]
    return config.get("shift")


def scheduler_parameters(name: Any) -> dict[str, Any]:
    """Return the options of a diffusers scheduler class with their defaults; empty if there is no such class."""
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type):
        return {}
    constructor: Any = found.__init__  # type: ignore[misc]  # `found` is a class, not an instance
    return {option: parameter.default for option, parameter in signature(constructor).parameters.items()}


def is_diffusion(config: Mapping[str, Any]) -> bool:
    """Whether the model of a scheduler with this config is a diffusion model, which predicts no velocity."""
    return config.get("prediction_type") in DIFFUSION_PREDICTION_TYPES


def stock_class_name(config: Mapping[str, Any]) -> str:
    """Return the diffusers class that a `TwinFlowScheduler`'s config came from, or else the closest one."""
    if scheduler_parameters(config.get("_class_name")):
        return config["_class_name"]
    if is_diffusion(config):
        return "DDIMScheduler"
    if config["prediction_type"] == "flow_prediction":
        return "UniPCMultistepScheduler"
    return FLOW_SCHEDULERS[0]


def exchange_entries(config: Mapping[str, Any], own_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return private config entries with which other scheduler classes accept the config without a warning.

    diffusers' `from_config` passes private entries on. It drops options that are listed as defaults, and options that
    only the class in `_class_name` knows. So the options that no stock scheduler of the same model has are copied to
    one private entry and are listed as defaults.

    Args:
        config: config of a `TwinFlowScheduler`.
        own_defaults: the options of `TwinFlowScheduler` with their defaults.
    """
    stock_name = stock_class_name(config)
    kept = set(scheduler_parameters(stock_name))
    kept |= scheduler_parameters("DDIMScheduler" if is_diffusion(config) else FLOW_SCHEDULERS[0]).keys()
    own = [name for name in own_defaults if name not in kept]
    carried = {name: config[name] for name in own if name == "prediction_type" or config[name] != own_defaults[name]}
    return {
        "_class_name": stock_name,
        CARRIED: carried,
        "_use_default_values": sorted({*config.get("_use_default_values", []), *own}),
    }


def own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of any scheduler with the names and values of a `TwinFlowScheduler`.

    Raises:
        ValueError: if the model's noise levels are unknown; see `spell_out_schedule`.
    """
    return spell_out_schedule(_restored(_from_simpletuner(config)))


def _restored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Restore options that `exchange_entries` carried through another class. An option set since then wins."""
    carried = config.get(CARRIED, {})
    if not isinstance(carried, Mapping):
        raise ValueError(
            f"{CARRIED}={carried!r} is not valid: it must be a JSON object. Delete it to use the defaults."
        )
    defaults, unset = scheduler_parameters(config.get("_class_name")), config.get("_use_default_values", [])
    set_since = {
        name for name in config if name not in unset and (name not in defaults or config[name] != defaults[name])
    }
    restored = {name: value for name, value in carried.items() if name not in set_since}
    return {
        **{name: value for name, value in config.items() if name != CARRIED},
        **restored,
        "_use_default_values": [name for name in unset if name not in restored],
    }


def _from_simpletuner(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the config of SimpleTuner's `TwinFlowScheduler`, which never applies its `shift`.

    Returns any other config unchanged.
    """
    if not SIMPLETUNER_NAMES.keys() & config.keys():
        return dict(config)
    values = SIMPLETUNER_DEFAULTS | {name: config[name] for name in SIMPLETUNER_NAMES if name in config}
    if values["rfba_gap_end"] == 0:
        values["rfba_gap_end"] = SIMPLETUNER_GAP_END
    translated = {SIMPLETUNER_NAMES[name]: value for name, value in values.items()} | {"shift": 1.0}
    return {
        **{name: value for name, value in config.items() if name not in SIMPLETUNER_NAMES},
        **{name: value for name, value in translated.items() if name == "shift" or name not in config},
    }
