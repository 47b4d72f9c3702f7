"""How a scheduler's options travel through the configs of other scheduler classes, and come back."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from ..diff2flow import DIFFUSION_PREDICTION_TYPES
from .prediction import spell_out_schedule

CARRIED = "_twinflow_options"
FLOW_SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "FlowMapEulerDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
)
DIFFUSION_SCHEDULERS = tuple(kind.name for kind in KarrasDiffusionSchedulers)

# What the options of SimpleTuner's TwinFlowScheduler are called here, and their defaults in SimpleTuner.
SIMPLETUNER_NAMES = {
    "time_dist_ctrl": "kumaraswamy",
    "rfba_gap_start": "gap_start",
    "rfba_gap_end": "gap_end",
    "stochast_ratio": "stochastic_ratio",
}
SIMPLETUNER_DEFAULTS = {"time_dist_ctrl": None, "rfba_gap_start": 0.001, "rfba_gap_end": 0.0, "stochast_ratio": 1.0}
SIMPLETUNER_GAP_END = [0.6, 0.6, 0.5, 0.5, 0.3]  # what its rfba_gap_end=0.0 means, by number of steps


def scheduler_parameters(name: Any) -> dict[str, Any]:
    """The options of a scheduler class of diffusers with their defaults; empty if diffusers has no such class."""
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type):
        return {}
    return {option: parameter.default for option, parameter in signature(found.__init__).parameters.items()}


def is_diffusion(config: Mapping) -> bool:
    """Whether the model of a scheduler with this config predicts no velocity."""
    return config.get("prediction_type") in DIFFUSION_PREDICTION_TYPES


def stock_class_name(config: Mapping) -> str:
    """The class of diffusers that the options of a `TwinFlowScheduler` came from, or else its nearest one."""
    if scheduler_parameters(config.get("_class_name")):
        return config["_class_name"]
    if is_diffusion(config):
        return "DDIMScheduler"
    if config["prediction_type"] == "flow_prediction":
        return "UniPCMultistepScheduler"
    return FLOW_SCHEDULERS[0]


def exchange_entries(config: Mapping, own_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Private entries that let other scheduler classes take a `TwinFlowScheduler`'s config without a warning.

    `from_config` of diffusers passes private entries on, drops those that are listed as defaults, and drops those that
    only the class in `_class_name` knows. So the options that no stock scheduler of the same model has are copied to
    one private entry and listed as defaults.

    Args:
        config: of the scheduler.
        own_defaults: the scheduler's options with their defaults.
    """
    stock_name = stock_class_name(config)
    kept = scheduler_parameters(stock_name).keys()
    kept |= scheduler_parameters("DDIMScheduler" if is_diffusion(config) else FLOW_SCHEDULERS[0]).keys()
    own = [name for name in own_defaults if name not in kept]
    carried = {name: config[name] for name in own if name == "prediction_type" or config[name] != own_defaults[name]}
    return {
        "_class_name": stock_name,
        CARRIED: carried,
        "_use_default_values": sorted({*config.get("_use_default_values", []), *own}),
    }


def own_config(config: Mapping) -> dict[str, Any]:
    """The config of any scheduler in the names and values of a `TwinFlowScheduler`.

    Raises:
        ValueError: if the noise levels of the model are unknown; see `spell_out_schedule`.
    """
    return spell_out_schedule(_restored(_from_simpletuner(config)))


def _restored(config: Mapping) -> dict[str, Any]:
    """Options that `exchange_entries` carried through another class; an option that was set since then counts."""
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


def _from_simpletuner(config: Mapping) -> dict[str, Any]:
    """The config of SimpleTuner's `TwinFlowScheduler`, which never applies its `shift`, in our names; others as is."""
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
