"""What the options of the scheduler may be."""

from ..diff2flow import DIFFUSION_PREDICTION_TYPES
from .prediction import PREDICTION_TYPES

SAMPLING_STYLES = ("few", "any", "multi")


def check_options(config):
    """Raise a ValueError that names the first option of a scheduler's config that cannot be, and the remedy."""
    ratio, warp, gap_end = config.stochastic_ratio, config.kumaraswamy, config.gap_end
    rules = {
        "num_train_timesteps": (config.num_train_timesteps >= 1, "1 or more"),
        "prediction_type": (config.prediction_type in PREDICTION_TYPES, f"one of {PREDICTION_TYPES}"),
        "shift": (config.shift > 0, "above 0; 1 is no shift"),
        "sampling_style": (config.sampling_style in SAMPLING_STYLES, f"one of {SAMPLING_STYLES}"),
        "stochastic_ratio": (
            ratio in (None, "sde") or (not isinstance(ratio, str) and 0 <= ratio <= 1),
            "in [0, 1], 'sde', or None for what the style needs",
        ),
        "gap_start": (0 <= config.gap_start < 1, "in [0, 1)"),
        "gap_end": (
            gap_end is None or 0 <= gap_end < 1 - config.gap_start,
            "in [0, 1 - gap_start), so they do not cross",
        ),
        "kumaraswamy": (
            warp is None or (len(warp) == 3 and min(warp) > 0),
            "three numbers above 0, or None for what the style needs",
        ),
        "extrapolation_ratio": (0 <= config.extrapolation_ratio <= 1, "in [0, 1]"),
        "sampling_order": (config.sampling_order in (1, 2), "1 or 2"),
        "noise_seed": (0 <= config.noise_seed < 2**32, "in [0, 2**32)"),
    }
    for name, (allowed, remedy) in rules.items():
        if not allowed:
            raise ValueError(f"{name}={config[name]!r} cannot be: make it {remedy}.")
    if config.prediction_type in DIFFUSION_PREDICTION_TYPES:
        for name in ("invert_sigmas", "squeeze_target_time"):
            if config[name]:
                raise ValueError(
                    f"{name}=True cannot be with prediction_type={config.prediction_type!r}: set it False."
                )
    if config.sampling_order == 2 and config.gap_start == 0:
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
