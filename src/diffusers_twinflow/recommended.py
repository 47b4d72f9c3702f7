"""The recommended options of a run. docs/recipes.md links to the measurements behind them."""

from typing import Any, Literal, get_args

from .options import TwinFlowConfigError

TrainType = Literal["lora", "full"]
Length = Literal["short", "long"]
Media = Literal["image", "video"]

STEPS: dict[str, int] = {"short": 1000, "long": 4000}
SHORT_BELOW = 2000
"""A run with fewer steps is short."""
SAMPLES_PER_STEP: dict[str, int] = {"image": 256, "video": 32}
LEARNING_RATES: dict[str, float] = {"lora": 1e-3, "full": 5e-4}
DATA_FREE: dict[str, Any] = {
    "twinflow_enabled": True,
    "twinflow_adversarial_enabled": True,
    "twinflow_image_free": True,
    "twinflow_ema_decay": 1.0,
    "twinflow_enhanced_ratio": 4.0,
    "twinflow_rectify_weight": 3.0,
    "twinflow_estimate_order": 2,
}
"""The authors' recipe for training without images. Their rectification weight of 0.75 corresponds to 3.0 here."""


def recommended_twinflow(
    *,
    train_type: TrainType = "lora",
    length: Length = "long",
    media: Media = "image",
    diffusion: bool = False,
    data_free: bool = False,
) -> dict[str, Any]:
    """Return the options of `TwinFlowConfig` that the recommended recipe sets; see `TwinFlowConfig.recommended`."""
    _check(train_type=(train_type, TrainType), length=(length, Length), media=(media, Media))
    if data_free:
        return dict(DATA_FREE)
    options: dict[str, Any] = {
        "twinflow_enabled": True,
        "twinflow_adversarial_enabled": (train_type, length) != ("full", "short"),
    }
    if not diffusion:
        options |= {"twinflow_target_clamp": 10.0, "twinflow_ema_decay": 0.95}
    return options


def recommended_training(
    *,
    train_type: TrainType = "lora",
    length: Length = "long",
    media: Media = "image",
    train_batch_size: int | None = None,
    num_processes: int = 1,
    diffusion: bool = False,
    data_free: bool = False,
) -> dict[str, Any]:
    """Return the options of `TrainingArguments` that the recommended recipe sets.

    See `TrainingArguments.recommended`.
    """
    _check(train_type=(train_type, TrainType), length=(length, Length), media=(media, Media))
    micro_batch = train_batch_size or (1 if media == "video" else 4)
    options: dict[str, Any] = {
        "train_type": train_type,
        "learning_rate": LEARNING_RATES[train_type],
        "lr_scheduler": "warmup_stable_decay",
        "lr_decay_share": 0.6,
        "lr_warmup_steps": 25,
        "max_train_steps": STEPS[length],
        "train_batch_size": micro_batch,
        "gradient_accumulation_steps": max(1, -(-SAMPLES_PER_STEP[media] // (micro_batch * num_processes))),
    }
    if not data_free:
        options["caption_dropout_probability"] = 0.1
    if train_type == "lora":
        options["rank"] = 64
        if not diffusion:
            options["lora_layers"] = ["all-linear"]
    if media == "video":
        options["gradient_checkpointing"] = True
    return options


def length_of(steps: int | None) -> Length:
    """Return "short" or "long" for a number of steps. A run of unknown length is long."""
    return "short" if steps is not None and steps < SHORT_BELOW else "long"


def _check(**given: tuple[str, Any]) -> None:
    """Check that each value is one of its choices.

    Raises:
        TwinFlowConfigError: if a value is not; the message names the argument and its choices.
    """
    for name, (value, choices) in given.items():
        if value not in get_args(choices):
            raise TwinFlowConfigError(f"{name}={value!r} is not valid: it must be {' or '.join(get_args(choices))}.")
