"""Options of a training run as typed dataclasses. Each field has a help text and a range of valid values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..configuration import MAX_STEPS, STEP_COUNT
from ..data.config import DataOptions
from ..options import check_values, option, options_of
from ..ranges import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Range
from ..recommended import Length, Media, TrainType, recommended_training
from ..writing import write_text

FILE_NAME = "training_arguments.json"
FRACTION = Range(least=0, below=1)
SEED = Range(least=0, most=2**32 - 1)
PRECISIONS = ("no", "fp16", "bf16")
OPTIMIZERS = ADAMW, PRODIGY = ("adamw", "prodigy")
QUANTIZATIONS = ("bnb_4bit", "torchao_int8")
DIFFUSERS_LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
)
WARMUP_STABLE_DECAY = "warmup_stable_decay"
LR_SCHEDULERS = (*DIFFUSERS_LR_SCHEDULERS, WARMUP_STABLE_DECAY)
"""Schedules of diffusers that need no options other than numbers, and one schedule of transformers."""
DATA_FREE = "data_free"
RECIPES = ("recommended", DATA_FREE)


@dataclass(frozen=True)
class ModelArguments:
    """Model"""

    pretrained_model_name_or_path: str | None = option(
        None, "Hub id or folder of the base pipeline to train (required on the command line).", fixed=True
    )
    revision: str | None = option(None, "Branch, tag or commit of the base on the Hub.", fixed=True)
    variant: str | None = option(None, "Variant of the base's weight files, such as fp16.", fixed=True)
    train_type: str = option(
        "lora", "Train a LoRA ('lora') or all weights ('full').", choices=("lora", "full"), fixed=True
    )
    rank: int = option(64, "Rank of the LoRA.", AT_LEAST_1, fixed=True, needs=("train_type=lora",))
    lora_alpha: float | None = option(
        None, "Alpha of the LoRA; the default is the rank.", POSITIVE, fixed=True, needs=("train_type=lora",)
    )
    lora_dropout: float = option(
        0.0, "Dropout probability of the LoRA's inputs.", FRACTION, needs=("train_type=lora",)
    )
    lora_layers: list[str] | None = option(
        None,
        "Names of the layers to adapt, or 'all-linear' for every linear layer; the default depends on the model.",
        fixed=True,
        needs=("train_type=lora",),
    )
    denoisers: list[str] | None = option(
        None,
        "Transformers of the base to load and train, if it has two (Wan 2.2); 'transformer' alone is then used at all "
        "times. The default is all.",
        fixed=True,
    )
    quantize_base: str | None = option(
        None, "Quantize the frozen base of a LoRA to save memory.", choices=QUANTIZATIONS, fixed=True
    )
    base_loras: list[str] | None = option(
        None,
        "LoRAs to merge into the base before training, as Hub ids, folders or files; a scale may follow a colon, as in "
        "me/style:0.8.",
        fixed=True,
    )
    use_ema: bool | None = option(
        None, "Keep an exponential moving average of the weights; on by default for TwinFlow.", fixed=True
    )
    offload_ema: bool = option(
        False,
        "Keep the EMA teacher of a full training run on the CPU to save GPU memory.",
        needs=("train_type=full", "use_ema"),
    )


@dataclass(frozen=True)
class OptimizerArguments:
    """Optimizer"""

    optimizer: str = option(ADAMW, "Optimizer: fused AdamW, or Prodigy.", choices=OPTIMIZERS, fixed=True)
    use_8bit_adam: bool = option(False, "Use the 8-bit AdamW of bitsandbytes to save memory.", fixed=True)
    learning_rate: float = option(1e-4, "Learning rate for the LoRA or model weights.", POSITIVE)
    time_conditioning_learning_rate: float | None = option(
        None, "Learning rate for the time conditioning; the default is `learning_rate`.", POSITIVE
    )
    scale_lr: bool = option(False, "Multiply the learning rates by the number of samples per optimizer step.")
    lr_scheduler: str = option(
        "constant", "Learning rate schedule, from diffusers or transformers.", choices=LR_SCHEDULERS
    )
    lr_warmup_steps: int = option(
        0,
        "Number of steps over which the learning rate rises from 0.",
        NOT_NEGATIVE,
        needs=("lr_scheduler!=constant",),
    )
    lr_decay_share: float = option(
        0.6,
        "Share of the run, at its end, in which the learning rate of warmup_stable_decay falls linearly to 0.",
        Range(above=0, most=1),
        needs=("lr_scheduler=warmup_stable_decay",),
    )
    lr_num_cycles: int = option(
        1,
        "Number of restarts of the cosine_with_restarts schedule.",
        AT_LEAST_1,
        needs=("lr_scheduler=cosine_with_restarts",),
    )
    lr_power: float = option(1.0, "Power of the polynomial schedule.", POSITIVE, needs=("lr_scheduler=polynomial",))
    adam_beta1: float = option(0.9, "First beta of AdamW and Prodigy.", FRACTION)
    adam_beta2: float = option(0.99, "Second beta of AdamW and Prodigy.", FRACTION)
    adam_weight_decay: float = option(0.0, "Weight decay of AdamW and Prodigy.", NOT_NEGATIVE)
    adam_epsilon: float = option(1e-8, "Epsilon of AdamW and Prodigy.", POSITIVE)
    prodigy_beta3: float | None = option(
        None,
        "Third beta of Prodigy; the default is the square root of `adam_beta2`.",
        FRACTION,
        needs=("optimizer=prodigy",),
    )
    prodigy_decouple: bool = option(True, "Decay weights in Prodigy as AdamW does.", needs=("optimizer=prodigy",))
    prodigy_use_bias_correction: bool = option(
        True, "Use Adam's bias correction in Prodigy.", needs=("optimizer=prodigy",)
    )
    prodigy_safeguard_warmup: bool = option(
        True, "Ignore the warm-up steps when Prodigy estimates the learning rate.", needs=("optimizer=prodigy",)
    )
    max_grad_norm: float = option(1.0, "Maximum norm of the gradients; larger gradients are clipped.", POSITIVE)


@dataclass(frozen=True)
class LoopArguments:
    """Loop"""

    train_batch_size: int = option(4, "Number of samples per micro-batch and process.", AT_LEAST_1)
    gradient_accumulation_steps: int = option(1, "Number of micro-batches per optimizer step.", AT_LEAST_1)
    max_train_steps: int | None = option(
        None, "Number of optimizer steps; the default is `num_train_epochs`, or 1000 steps.", AT_LEAST_1
    )
    num_train_epochs: int | None = option(
        None, "Number of epochs; used only if `max_train_steps` is not given.", AT_LEAST_1, needs=("!max_train_steps",)
    )
    max_train_minutes: float | None = option(
        None,
        "Stop after this many minutes and save the result as if training were complete; checked every `logging_steps` steps.",
        NOT_NEGATIVE,
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    compile: bool = option(False, "Compile the transformer's blocks with torch.compile.")
    cuda_graphs: bool = option(
        False,
        "Record the model's passes as CUDA graphs and replay them, which makes steps of few samples faster.",
    )
    merged_lora_gigabytes: float | None = option(
        None,
        "Memory limit in gigabytes for merged weights of the LoRA's layers, which make steps faster; the default is a "
        "sixteenth of the device's memory, and 0 trains without them.",
        NOT_NEGATIVE,
        needs=("train_type=lora",),
    )
    mixed_precision: str | None = option(
        None,
        "Precision of the passes and of frozen weights; the default is accelerate's configuration.",
        choices=PRECISIONS,
        fixed=True,
    )
    allow_tf32: bool = option(False, "Allow TF32 in float32 matrix products on CUDA.")
    seed: int = option(0, "Seed of all random numbers of the run.", SEED, fixed=True)
    local_rank: int = option(-1, "Set by some launchers; the environment variable LOCAL_RANK is used instead.")
    flow_matching_ema_decay: float = option(
        0.9999,
        "Decay of the EMA weights of flow matching (`use_ema` without TwinFlow).",
        SHARE,
        needs=("use_ema", "!twinflow_enabled"),
    )


@dataclass(frozen=True)
class OutputArguments:
    """Output"""

    output_dir: str = option("twinflow-output", "Folder for checkpoints, images and the result.", local=True)
    save_ema: bool = option(
        True, "Save the EMA weights as the result instead of the last weights.", needs=("use_ema",)
    )
    upcast_before_saving: bool = option(True, "Save the LoRA in float32.", needs=("train_type=lora",))
    dry_run: bool = option(False, "Measure one step of each kind and one image, report time and memory, and stop.")
    checkpointing_steps: int = option(500, "Write a checkpoint every this many steps.", AT_LEAST_1)
    checkpoints_total_limit: int | None = option(
        None, "Maximum number of checkpoints to keep; the oldest are deleted.", AT_LEAST_1
    )
    resume_from_checkpoint: str | None = option(
        None, "Checkpoint to continue from: its name or path, or 'latest'.", local=True
    )


@dataclass(frozen=True)
class ValidationArguments:
    """Validation and tracking"""

    validation_prompts: list[str] | None = option(
        None, "Prompts to generate validation images for.", aliases=["validation_prompt"]
    )
    validation_steps: int = option(
        500,
        "Generate validation images every this many steps, and at the end.",
        AT_LEAST_1,
        needs=("validation_prompts", "!validation_epochs"),
    )
    validation_epochs: int | None = option(
        None,
        "Generate validation images every this many epochs; replaces `validation_steps`.",
        AT_LEAST_1,
        needs=("validation_prompts",),
    )
    validation_step_counts: list[int] = option(
        [1, 2, 4],
        "Numbers of inference steps of the validation images (TwinFlow).",
        STEP_COUNT,
        needs=("validation_prompts", "twinflow_enabled"),
    )
    validation_base_steps: int | None = option(
        None,
        "Number of inference steps of the base's validation images; 0 generates none.",
        Range(least=0, most=MAX_STEPS),
        needs=("validation_prompts",),
    )
    validation_image: str | None = option(
        None,
        "Image that the validation prompts edit, for models that edit images.",
        needs=("validation_prompts|score_steps",),
    )
    validation_resolution: int | None = option(
        None,
        "Side length of the validation images in pixels; the default is `resolution`.",
        AT_LEAST_1,
        needs=("validation_prompts|score_steps",),
    )
    num_validation_images: int = option(
        4, "Number of validation images per prompt.", AT_LEAST_1, needs=("validation_prompts",)
    )
    report_to: list[str] = option(["none"], "Trackers of accelerate to log to, 'all' or 'none'.")
    tracker_project_name: str = option("twinflow", "Project name for the trackers.", needs=("report_to",))
    logging_dir: str = option(
        "logs", "Folder for the trackers' files, inside `output_dir`.", local=True, needs=("report_to",)
    )
    logging_steps: int = option(10, "Log every this many steps.", AT_LEAST_1)
    log_trajectory: bool = option(
        False, "Log a plot of the trained times and target times (experimental).", needs=("report_to",)
    )


@dataclass(frozen=True)
class ScoreArguments:
    """Scores and early stopping"""

    score_steps: int | None = option(None, "Score generated images every this many steps, and at the end.", AT_LEAST_1)
    frechet_model: str | None = option(
        None, "Folder of a transformers image model, for the Fréchet distance.", local=True
    )
    prompt_score_model: str | None = option(
        None, "Folder of a transformers CLIP model, for the CLIP score.", local=True
    )
    judge: str | None = option(
        None, "Python function, as module:function, that takes images and prompts and returns scores.", local=True
    )
    num_score_images: int = option(64, "Number of images to generate per score.", AT_LEAST_1, needs=("score_steps",))
    score_metric: str | None = option(
        None, "Score that decides which weights are best; the default is the first.", needs=("score_steps",)
    )
    score_higher_is_better: bool | None = option(
        None, "Whether a higher score is better; the default depends on the score.", needs=("score_steps",)
    )
    early_stopping_patience: int | None = option(
        None, "Stop after this many scores in a row without an improvement.", AT_LEAST_1
    )


@dataclass(frozen=True)
class HubArguments:
    """Hub"""

    push_to_hub: bool = option(False, "Push the result to the Hub at the end of training.")
    hub_model_id: str | None = option(None, "Hub repository to push to, such as me/my-lora.", needs=("push_to_hub",))
    hub_base_model: str | None = option(None, "Hub id of the base, if it was trained from a local folder.")
    hub_token: str | None = option(None, "Hub token; the default is the token of `hf auth login`.")
    hub_private_repo: bool | None = option(None, "Make a new repository private.", needs=("push_to_hub",))
    hub_revision: str | None = option(None, "Branch of the repository to push to.", needs=("push_to_hub",))


@dataclass(frozen=True)
class RecipeOptions:
    """Recipe"""

    recipe: str | None = option(
        None,
        "Recipe to take options from; options that you give override it. 'data_free' trains on prompts without images.",
        choices=RECIPES,
    )

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class TrainingArguments(
    HubArguments,
    ScoreArguments,
    ValidationArguments,
    OutputArguments,
    LoopArguments,
    OptimizerArguments,
    DataOptions,
    ModelArguments,
):
    """The options of a training run: model, data, optimizer, loop, output, validation, scores and Hub.

    The options of the method are separate, see `TwinFlowConfig`.

    Raises:
        TwinFlowConfigError: if a value has the wrong type or is outside its range.

    Examples:
        >>> TrainingArguments("stabilityai/stable-diffusion-3.5-medium", instance_data_dir="photos", rank=32)
    """

    def __post_init__(self) -> None:
        check_values(self)

    @classmethod
    def recommended(
        cls,
        pretrained_model_name_or_path: str | None = None,
        *,
        train_type: TrainType = "lora",
        length: Length = "long",
        media: Media = "image",
        num_processes: int = 1,
        diffusion: bool = False,
        data_free: bool = False,
        **options: Any,
    ) -> "TrainingArguments":
        """Return the recommended options: learning rate and schedule, samples per step, LoRA layers, empty prompts.

        Use it with `TwinFlowConfig.recommended` and the same choices.

        Args:
            pretrained_model_name_or_path: Hub id or folder of the base.
            train_type: "lora", or "full" for all weights.
            length: "short" for 1,000 steps, "long" for 4,000.
            media: "image", or "video" for smaller steps with gradient checkpointing.
            num_processes: number of processes. The recommended number of samples per step is divided among them.
            diffusion: whether the base predicts epsilon or v. If so, a LoRA has the family's default layers.
            data_free: train on prompts without images. If so, no prompts are replaced by empty ones.
            options: options that override the recommended ones, such as `instance_data_dir`.

        Raises:
            TwinFlowConfigError: if a choice or an option is not valid.

        Examples:
            >>> TrainingArguments.recommended("my/base", train_type="full", instance_data_dir="photos")
        """
        values = recommended_training(
            train_type=train_type,
            length=length,
            media=media,
            train_batch_size=options.get("train_batch_size"),
            num_processes=num_processes,
            diffusion=diffusion,
            data_free=data_free,
        )
        return cls(pretrained_model_name_or_path, **(values | options))

    def to_dict(self) -> dict[str, Any]:
        """Return the options that are set, without tokens and without options that only concern this process."""
        left_out = {"resume_from_checkpoint", "local_rank", "hub_token"}
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}
        return {name: value for name, value in values.items() if value is not None}


FIXED = tuple(each.name for each in options_of(TrainingArguments) if each.metadata["fixed"])
"""Options that a resumed run must not change, because they define the contents of a checkpoint or the order of samples.
All other options may change and take effect after the checkpoint."""
LOCAL = frozenset(each.name for each in options_of(TrainingArguments) if each.metadata["local"])


def save_options(options: Mapping[str, Any], directory: str | Path) -> Path:
    """Save the options of a run as a recipe file, which `load_recipe` and `--config` read. Returns its path."""
    path = Path(directory) / FILE_NAME
    write_text(path, json.dumps(dict(options), indent=2, sort_keys=True) + "\n")
    return path
