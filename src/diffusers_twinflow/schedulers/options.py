"""What the options of the scheduler may be."""

import math
from collections.abc import Mapping
from typing import Any

from ..diff2flow import DIFFUSION_PREDICTION_TYPES
from .prediction import PREDICTION_TYPES

SAMPLING_STYLES = ("few", "any", "multi")


WHOLE_NUMBERS = ("num_train_timesteps", "sampling_order", "noise_seed", "base_image_seq_len", "max_image_seq_len")
NUMBERS = ("shift", "gap_start", "extrapolation_ratio", "beta_start", "beta_end")
MOST_TIMESTEPS = 1_000_000


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; a truth value is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole_numbers(config: Mapping) -> dict[str, int]:
    """The options that are whole numbers but came as floats, as integers: JSON writers turn 1000 into 1000.0.

    Raises:
        ValueError: for one that is no whole number; the message names it.
    """
    changed = {}
    for name in WHOLE_NUMBERS:
        value = config[name]
        if not is_number(value) or value != int(value):
            raise ValueError(f"{name}={value!r} is not valid: it must be a whole number.")
        if not isinstance(value, int):
            changed[name] = int(value)
    return changed


def check_options(config: Mapping):
    """Raise a ValueError that names the first option of a scheduler's config that is not valid, and the remedy."""
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
            "in [0, 1], 'sde', or None for what the style needs",
        ),
        "gap_start": (0 <= gap_start < 1, "in [0, 1)"),
        "gap_end": (
            gap_ends == [None] or (gap_ends and all(is_number(end) and 0 <= end < 1 - gap_start for end in gap_ends)),
            "in [0, 1 - gap_start), so they do not cross, or a list of such numbers by step count",
        ),
        "kumaraswamy": (
            warp is None
            or (isinstance(warp, (list, tuple)) and len(warp) == 3 and all(is_number(x) and x > 0 for x in warp)),
            "three numbers above 0, or None for what the style needs",
        ),
        "extrapolation_ratio": (0 <= config["extrapolation_ratio"] <= 1, "in [0, 1]"),
        "sampling_order": (config["sampling_order"] in (1, 2), "1 or 2"),
        "noise_seed": (0 <= config["noise_seed"] < 2**32, "in [0, 2**32)"),
    }
    for name, (allowed, remedy) in rules.items():
        if not allowed:
            raise ValueError(f"{name}={config[name]!r} cannot be: make it {remedy}.")
    if config["prediction_type"] in DIFFUSION_PREDICTION_TYPES:
        for name in ("invert_sigmas", "squeeze_target_time"):
            if config[name]:
                raise ValueError(
                    f"{name}=True cannot be with prediction_type={config['prediction_type']!r}: set it False."
                )
    if config["sampling_order"] == 2 and gap_start == 0:
        raise ValueError("gap_start=0 cannot be with sampling_order=2, which divides by it: make it 0.001.")


def shift_of(config: dict) -> float | None:
    """The static shift that a flow-matching scheduler's config asks for, whatever its class calls it.

    Args:
        config: of any diffusers scheduler. Multistep schedulers say `flow_shift`, the flow-matching ones `shift`. Where
            a config has been through both kinds, a `shift` that somebody set counts.

    Returns:
        The shift, or `None` where the config has none.
    """
    was_set = "shift" in config and "shift" not in config.get("_use_default_values", [])
    if not was_set and config.get("use_flow_sigmas") and config.get("flow_shift") is not None:
        return config["flow_shift"]
    return config.get("shift")
