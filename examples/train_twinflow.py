#!/usr/bin/env python
"""Distil a flow-matching text-to-image model with TwinFlow, or train it with ordinary flow matching.

accelerate launch examples/train_twinflow.py --config recipe.json --output_dir out
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.logging import get_logger
from accelerate.utils import (
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
    set_seed,
)
from diffusers import DiffusionPipeline
from diffusers.optimization import SchedulerType, get_scheduler
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffusers_twinflow.configuration import MAX_STEPS, TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.data import CAPTION_STRATEGIES, DataConfig, TrainingData, open_source
from diffusers_twinflow.families import Family, family_of
from diffusers_twinflow.hub.push import whole_repo_id
from diffusers_twinflow.hub.samples import STEP_COUNTS, labelled_grid
from diffusers_twinflow.methods.flow_matching import WEIGHTINGS, FlowMatchingObjective
from diffusers_twinflow.methods.loss import LossFunction
from diffusers_twinflow.methods.teachers import copy_for_teacher
from diffusers_twinflow.methods.twinflow.trajectory import COLUMNS, NAME, TITLE, trajectory_picture, trajectory_rows
from diffusers_twinflow.ranges import AT_LEAST_1, FINITE, NOT_NEGATIVE, POSITIVE, SHARE, Number, Range
from diffusers_twinflow.training import deepspeed
from diffusers_twinflow.training.arguments import OneLineParser, parse_with_config
from diffusers_twinflow.training.base_model import (
    DTYPES,
    has_flow_matching_scheduler,
    load_frozen_pipeline,
    load_model_index,
    prepare_full,
    prepare_lora,
)
from diffusers_twinflow.training.checkpoints import checkpoint_step
from diffusers_twinflow.training.compilation import compile_blocks
from diffusers_twinflow.training.distributed import (
    autocast,
    check_distributed,
    clip_grad_norm,
    place_teacher,
    shards_parameters,
    uses_deepspeed,
)
from diffusers_twinflow.training.dry_run import DryRun, format_report, save_report
from diffusers_twinflow.training.ema import EMAOfTrained
from diffusers_twinflow.training.health import TrainingHealth, check_finite
from diffusers_twinflow.training.limits import check_memory, check_output_dir
from diffusers_twinflow.training.optimizer import OPTIMIZERS, build_optimizer, check_optimizer, learning_rates
from diffusers_twinflow.training.quantization import LIBRARIES as QUANTIZATIONS
from diffusers_twinflow.training.quantization import check_quantization
from diffusers_twinflow.training.resuming import (
    PROCESSES,
    SAMPLES_PER_EPOCH,
    SAMPLES_PER_STEP,
    check_options,
    check_sizes,
    load_checkpoint,
)
from diffusers_twinflow.training.run_folder import RunFolder
from diffusers_twinflow.training.saving import (
    plain_arguments,
    push_result,
    repository_config,
    save_checkpoint,
    save_result,
    save_sample_grid,
    write_card,
)
from diffusers_twinflow.training.scores import ScoreBook, Scores, check_scores, load_judge
from diffusers_twinflow.training.state import TrainedWeights
from diffusers_twinflow.training.stopping import RunStopped, stop_signals
from diffusers_twinflow.training.time_limit import TimeLimit
from diffusers_twinflow.training.trackers import (
    Throughput,
    check_trackers,
    log_picture,
    log_points,
    start_trackers,
    tracker_names,
)
from diffusers_twinflow.training.validation import Validation, grid_path, save_validation_grid
from diffusers_twinflow.writing import is_disk_error

logger = get_logger(__name__)

SWITCH = argparse.BooleanOptionalAction
TRAJECTORY_POINTS = 1024
BEST = "best"
LONGEST_WAIT = timedelta(hours=3)
"""How long processes wait for each other: one looks through the data, all encode their share, one draws pictures."""
FRACTION = Range(least=0, below=1)
SEED = Range(least=0, most=2**32 - 1)
STEP_COUNT = Range(least=1, most=MAX_STEPS)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="JSON file of options; arguments win over it.")
    add_model_arguments(parser.add_argument_group("model"))
    add_data_arguments(parser.add_argument_group("data"))
    add_cache_arguments(parser.add_argument_group("encoding and caching"))
    add_optimizer_arguments(parser.add_argument_group("optimizer"))
    add_loop_arguments(parser.add_argument_group("loop"))
    add_output_arguments(parser.add_argument_group("output"))
    add_validation_arguments(parser.add_argument_group("validation and tracking"))
    add_score_arguments(parser.add_argument_group("scores and early stopping"))
    add_hub_arguments(parser.add_argument_group("Hub"))
    group = parser.add_argument_group("TwinFlow")
    for option in fields(TwinFlowConfig):
        allowed = option.metadata["allowed"]
        kind = (
            {"action": SWITCH} if option.type is bool else {"type": Number(option.type, allowed) if allowed else str}
        )
        group.add_argument(f"--{option.name}", default=option.default, help=option.metadata["help"], **kind)
    return parser


def add_model_arguments(group) -> None:
    group.add_argument("--pretrained_model_name_or_path", help="Hub id or directory of the base pipeline (required).")
    group.add_argument("--revision", help="Revision of the base on the Hub.")
    group.add_argument("--variant", help="Variant of the base's files, such as fp16.")
    group.add_argument("--cache_dir", help="Where downloads are kept.")
    group.add_argument(
        "--train_type", choices=["lora", "full"], default="lora", help="What trains: low-rank weights, or all."
    )
    group.add_argument("--rank", type=Number(int, AT_LEAST_1), default=64, help="Rank of the LoRA.")
    group.add_argument("--lora_alpha", type=Number(float, POSITIVE), help="Defaults to the rank.")
    group.add_argument(
        "--lora_dropout", type=Number(float, FRACTION), default=0.0, help="Dropout of the LoRA's inputs."
    )
    group.add_argument(
        "--lora_layers", nargs="+", help="Module names to adapt, or all-linear; by default the family's."
    )
    group.add_argument("--quantize_base", choices=sorted(QUANTIZATIONS), help="Quantise the frozen base of a LoRA.")
    group.add_argument(
        "--offload_ema", action=SWITCH, default=False, help="Keep the teacher of a full run on the CPU."
    )
    group.add_argument(
        "--use_ema", action=SWITCH, help="Keep EMA weights: with TwinFlow the teacher's, on by default."
    )


def add_data_arguments(group) -> None:
    group.add_argument("--dataset_name", help="Hub dataset, or local folder.")
    group.add_argument("--dataset_config_name", help="Configuration of the dataset.")
    group.add_argument("--dataset_split", default="train", help="Split of the dataset.")
    group.add_argument("--instance_data_dir", help="Local folder of images.")
    group.add_argument("--data_files", nargs="+", help="Files of the dataset to read, such as *.parquet or *.tar.")
    group.add_argument("--streaming", action=SWITCH, default=False, help="Read the dataset while training.")
    group.add_argument("--image_column", default="image", help="Of the images, or of videos.")
    group.add_argument("--reference_image_column", help="Of the image that an edit starts from.")
    group.add_argument("--caption_column", nargs="+", default=["text"], help="One column, or several to draw from.")
    group.add_argument("--caption_strategy", choices=CAPTION_STRATEGIES, help="Where captions are.")
    group.add_argument("--instance_prompt", help="The caption of every image.")
    group.add_argument(
        "--caption_dropout_probability",
        "--proportion_empty_prompts",
        type=Number(float, SHARE),
        default=0.0,
        help="Part of the captions that the empty one replaces.",
    )
    group.add_argument(
        "--repeats", type=Number(int, AT_LEAST_1), default=1, help="How often an epoch sees each image."
    )
    group.add_argument("--prompts_file", help="Prompts, one a line, for image-free training.")
    group.add_argument(
        "--resolution", type=Number(int, AT_LEAST_1), default=512, help="Side of the squares in pixels."
    )
    group.add_argument(
        "--num_frames", type=Number(int, AT_LEAST_1), help="Train a video model on clips of so many frames."
    )
    group.add_argument(
        "--video_fps", type=Number(float, POSITIVE), help="Frames taken of a second of video; by default every frame."
    )
    group.add_argument("--center_crop", action=SWITCH, default=True, help="Crop in the middle, or anywhere.")
    group.add_argument("--random_flip", action=SWITCH, default=False, help="Mirror half of the samples.")
    group.add_argument(
        "--aspect_ratio_buckets", nargs="?", const="auto", help="'auto', or sizes: 'height,width;height,width'."
    )
    group.add_argument("--stop_on_bad_samples", action=SWITCH, default=False, help="Rather than leave them out.")
    group.add_argument(
        "--dataloader_num_workers",
        type=Number(int, NOT_NEGATIVE),
        default=0,
        help="Processes that read the data; 0 is the main one.",
    )


def add_cache_arguments(group) -> None:
    group.add_argument(
        "--max_sequence_length",
        type=Number(int, Range(least=1, most=4096)),
        help="Tokens of a prompt; defaults to the family's.",
    )
    group.add_argument("--cache_latents", action=SWITCH, default=False, help="Encode every image once, beforehand.")
    group.add_argument("--cache_text_embeddings", action=SWITCH, default=False, help="Encode every prompt once.")
    group.add_argument("--cache_directory", help="Keep what is encoded on disk, for later runs.")


def add_optimizer_arguments(group) -> None:
    kinds = [kind.value for kind in SchedulerType if kind is not SchedulerType.PIECEWISE_CONSTANT]
    group.add_argument(
        "--optimizer", type=str.lower, choices=OPTIMIZERS, default="adamw", help="Fused AdamW, or that of prodigyopt."
    )
    group.add_argument("--use_8bit_adam", action=SWITCH, default=False, help="AdamW of bitsandbytes.")
    group.add_argument(
        "--learning_rate", type=Number(float, POSITIVE), default=1e-4, help="Of the weights that train."
    )
    group.add_argument(
        "--time_conditioning_learning_rate", type=Number(float, POSITIVE), help="Defaults to --learning_rate."
    )
    group.add_argument("--scale_lr", action=SWITCH, default=False, help="Times the samples of a step.")
    group.add_argument("--lr_scheduler", choices=kinds, default="constant", help="As diffusers has them.")
    group.add_argument(
        "--lr_warmup_steps", type=Number(int, NOT_NEGATIVE), default=0, help="Steps in which the rate rises from 0."
    )
    group.add_argument(
        "--lr_num_cycles", type=Number(int, AT_LEAST_1), default=1, help="Restarts of cosine_with_restarts."
    )
    group.add_argument("--lr_power", type=Number(float, POSITIVE), default=1.0, help="Power of polynomial.")
    group.add_argument("--adam_beta1", type=Number(float, FRACTION), default=0.9, help="Of AdamW and Prodigy.")
    group.add_argument("--adam_beta2", type=Number(float, FRACTION), default=0.99, help="Of AdamW and Prodigy.")
    group.add_argument(
        "--adam_weight_decay", type=Number(float, NOT_NEGATIVE), default=0.0, help="Of AdamW and Prodigy."
    )
    group.add_argument("--adam_epsilon", type=Number(float, POSITIVE), default=1e-8, help="Of AdamW and Prodigy.")
    group.add_argument("--prodigy_beta3", type=Number(float, FRACTION), help="Defaults to the root of --adam_beta2.")
    group.add_argument("--prodigy_decouple", action=SWITCH, default=True, help="Decay weights as AdamW does.")
    group.add_argument("--prodigy_use_bias_correction", action=SWITCH, default=True, help="As in Adam.")
    group.add_argument(
        "--prodigy_safeguard_warmup",
        action=SWITCH,
        default=True,
        help="Keep a warm-up out of the estimate of the rate.",
    )
    group.add_argument(
        "--max_grad_norm", type=Number(float, POSITIVE), default=1.0, help="Norm that gradients are clipped to."
    )


def add_loop_arguments(group) -> None:
    group.add_argument(
        "--train_batch_size",
        type=Number(int, AT_LEAST_1),
        default=4,
        help="Samples of one micro-batch of one process.",
    )
    group.add_argument(
        "--gradient_accumulation_steps", type=Number(int, AT_LEAST_1), default=1, help="Micro-batches of one step."
    )
    group.add_argument(
        "--max_train_steps", type=Number(int, AT_LEAST_1), help="Defaults to --num_train_epochs, or to 1000 steps."
    )
    group.add_argument(
        "--num_train_epochs", type=Number(int, AT_LEAST_1), help="Where --max_train_steps is not given."
    )
    group.add_argument(
        "--max_train_minutes", type=Number(float, NOT_NEGATIVE), help="End the run after so long as if it were done."
    )
    group.add_argument("--gradient_checkpointing", action=SWITCH, default=False, help="Less memory, more time.")
    group.add_argument("--compile", action=SWITCH, default=False, help="Compile the transformer's blocks.")
    group.add_argument(
        "--mixed_precision",
        choices=list(DTYPES),
        help="Of the passes and of what is frozen; defaults to that of accelerate's configuration.",
    )
    group.add_argument("--allow_tf32", action=SWITCH, default=False, help="TF32 in float32 products on CUDA.")
    group.add_argument("--seed", type=Number(int, SEED), default=0, help="Of everything that is drawn.")
    group.add_argument("--local_rank", type=int, default=-1, help="Given by launchers; LOCAL_RANK is what counts.")
    group.add_argument(
        "--weighting_scheme", choices=WEIGHTINGS, default="none", help="Density of t for flow matching (TwinFlow off)."
    )
    group.add_argument("--logit_mean", type=Number(float, FINITE), default=0.0, help="Of logit_normal.")
    group.add_argument("--logit_std", type=Number(float, POSITIVE), default=1.0, help="Of logit_normal.")
    group.add_argument("--mode_scale", type=Number(float, FINITE), default=1.29, help="Of mode.")
    group.add_argument(
        "--flow_matching_ema_decay", type=Number(float, SHARE), default=0.9999, help="Of --use_ema, TwinFlow off."
    )


def add_output_arguments(group) -> None:
    group.add_argument("--output_dir", default="twinflow-output", help="Where everything is written.")
    group.add_argument("--save_ema", action=SWITCH, default=True, help="Save the EMA weights rather than the last.")
    group.add_argument("--upcast_before_saving", action=SWITCH, default=True, help="Save the LoRA in float32.")
    group.add_argument(
        "--dry_run", action=SWITCH, default=False, help="A step of each kind and a picture, then a report, then stop."
    )
    group.add_argument(
        "--checkpointing_steps",
        type=Number(int, AT_LEAST_1),
        default=500,
        help="Write a checkpoint every so many steps.",
    )
    group.add_argument("--checkpoints_total_limit", type=Number(int, AT_LEAST_1), help="Keep only the newest ones.")
    group.add_argument("--resume_from_checkpoint", help="A checkpoint's name, or 'latest'.")


def add_validation_arguments(group) -> None:
    group.add_argument("--validation_prompts", "--validation_prompt", nargs="+", help="What to draw.")
    group.add_argument(
        "--validation_steps",
        type=Number(int, AT_LEAST_1),
        default=500,
        help="Draw every so many steps, and at the end.",
    )
    group.add_argument("--validation_epochs", type=Number(int, AT_LEAST_1), help="Draw every so many epochs instead.")
    group.add_argument(
        "--validation_step_counts",
        type=Number(int, STEP_COUNT),
        nargs="+",
        default=[1, 2, 4],
        help="TwinFlow's columns.",
    )
    group.add_argument(
        "--validation_base_steps",
        type=Number(int, Range(least=0, most=MAX_STEPS)),
        help="Of the base's column; 0 for none.",
    )
    group.add_argument("--validation_image", help="Image that the validation prompts edit, where the model edits.")
    group.add_argument("--validation_resolution", type=Number(int, AT_LEAST_1), help="Defaults to --resolution.")
    group.add_argument("--num_validation_images", type=Number(int, AT_LEAST_1), default=4, help="Of each prompt.")
    group.add_argument("--report_to", nargs="+", default=["none"], help="Trackers of accelerate, 'all' or 'none'.")
    group.add_argument("--tracker_project_name", default="twinflow", help="Of the trackers.")
    group.add_argument("--logging_dir", default="logs", help="In --output_dir.")
    group.add_argument("--logging_steps", type=Number(int, AT_LEAST_1), default=10, help="Log every so many steps.")
    group.add_argument(
        "--log_trajectory", action=SWITCH, default=False, help="Picture of the times trained on (experimental)."
    )


def add_score_arguments(group) -> None:
    group.add_argument(
        "--score_steps", type=Number(int, AT_LEAST_1), help="Score pictures every so many steps, and at the end."
    )
    group.add_argument("--frechet_model", help="Directory of a transformers image model, for the Fréchet distance.")
    group.add_argument("--prompt_score_model", help="Directory of a transformers CLIP, for the prompt score.")
    group.add_argument("--judge", help="module:function that takes pictures and prompts and returns scores.")
    group.add_argument(
        "--num_score_images", type=Number(int, AT_LEAST_1), default=64, help="Pictures that a score is taken of."
    )
    group.add_argument("--score_metric", help="The score that decides which adapter is best; defaults to the first.")
    group.add_argument("--score_higher_is_better", action=SWITCH, help="Defaults to what is usual for the score.")
    group.add_argument(
        "--early_stopping_patience",
        type=Number(int, AT_LEAST_1),
        help="Stop after so many scores without a better one.",
    )


def add_hub_arguments(group) -> None:
    group.add_argument("--push_to_hub", action=SWITCH, default=False, help="Push the result when it is trained.")
    group.add_argument("--hub_model_id", help="Repository to push to, such as me/my-lora.")
    group.add_argument("--hub_base_model", help="Hub id of the base, where it is trained from a directory.")
    group.add_argument("--hub_token", help="Defaults to the token that you logged in with.")
    group.add_argument("--hub_private_repo", action=SWITCH, help="Visibility of a new repository.")
    group.add_argument("--hub_revision", help="Branch to push to.")


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    args = parse_with_config(build_parser(), input_args)
    if args.use_ema is None:
        args.use_ema = args.twinflow_enabled
    if args.mixed_precision is None:
        args.mixed_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return args


def check_arguments(args: argparse.Namespace) -> tuple[TwinFlowConfig, Family]:
    """Everything that can be refused before a model is loaded."""
    if not args.pretrained_model_name_or_path:
        raise TwinFlowConfigError("--pretrained_model_name_or_path is missing: give it as an argument or in --config.")
    check_output_dir(args.output_dir)
    check_memory(args)
    check_push(args)
    check_precision(args.mixed_precision)
    check_quantization(args.quantize_base, args.train_type)
    check_optimizer(args)
    check_scores(args)
    check_trackers(args.report_to, args.hub_token)
    config = TwinFlowConfig.from_dict({name: getattr(args, name) for name in TwinFlowConfig.option_names()})
    base = {"name_or_path": args.pretrained_model_name_or_path, "revision": args.revision, "cache_dir": args.cache_dir}
    index = load_model_index(**base)
    config.check_training(flow_matching=has_flow_matching_scheduler(index=index, **base), use_ema=args.use_ema)
    family = family_of(index["_class_name"])
    check_reference(args, family)
    family.check_draws_videos(args.num_frames)
    return config, family


def check_reference(args, family: Family) -> None:
    """Refuse a model that edits without an image to edit, and an image for one that does not."""
    given = {"reference_image_column": args.reference_image_column}
    if args.validation_prompts:
        given["validation_image"] = args.validation_image
    for name, value in given.items():
        if family.takes_reference_image and not value:
            raise TwinFlowConfigError(f"--{name} is missing: {family.pipeline_class.__name__} edits an image.")
        if value and not family.takes_reference_image:
            raise TwinFlowConfigError(
                f"--{name}={value} is not for {family.pipeline_class.__name__}, which edits no image: leave it out."
            )


def check_precision(mixed_precision: str) -> None:
    """Refuse what accelerate's configuration may name and this script has not."""
    if mixed_precision not in DTYPES:
        raise TwinFlowConfigError(f"--mixed_precision={mixed_precision} must be one of {', '.join(DTYPES)}.")
    deepspeed.check_precision(mixed_precision)


def check_push(args) -> None:
    if not args.push_to_hub:
        return
    if not args.twinflow_enabled:
        raise TwinFlowConfigError("--push_to_hub pushes what TwinFlow distilled: set --twinflow_enabled.")
    if not args.hub_model_id:
        raise TwinFlowConfigError("--push_to_hub needs --hub_model_id, the repository's name such as me/my-lora.")
    if Path(args.pretrained_model_name_or_path).is_dir() and not args.hub_base_model:
        raise TwinFlowConfigError(
            f"--push_to_hub with --pretrained_model_name_or_path='{args.pretrained_model_name_or_path}', a base that "
            "only this machine has: name its Hub id with --hub_base_model."
        )
    args.hub_model_id = whole_repo_id(args.hub_model_id, args.hub_token)


def build_accelerator(args) -> Accelerator:
    accelerator = Accelerator(
        mixed_precision="no" if deepspeed.is_asked_for() else args.mixed_precision,
        log_with=None if args.dry_run else tracker_names(args.report_to) or None,
        project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir, args.logging_dir))),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=args.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    check_distributed(accelerator, args.offload_ema)
    if uses_deepspeed(accelerator):
        deepspeed.configure(
            accelerator,
            DTYPES[args.mixed_precision],
            batch_size=args.train_batch_size,
            accumulation_steps=args.gradient_accumulation_steps,
            max_grad_norm=args.max_grad_norm,
        )
    set_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
    return accelerator


def load_pipeline(args, config: TwinFlowConfig, family: Family) -> DiffusionPipeline:
    """The base with what is trained on it."""
    pipeline = load_frozen_pipeline(
        family,
        args.pretrained_model_name_or_path,
        train_type=args.train_type,
        weight_dtype=DTYPES[args.mixed_precision],
        quantize_base=args.quantize_base,
        revision=args.revision,
        variant=args.variant,
        cache_dir=args.cache_dir,
    )
    prepare_transformer(family.denoiser(pipeline), args, config, family)
    return pipeline


def prepare_transformer(transformer: torch.nn.Module, args, config: TwinFlowConfig, family: Family) -> None:
    """Give the frozen transformer what trains."""
    if args.train_type == "full":
        prepare_full(transformer, config, family)
    else:
        names = ("rank", "lora_alpha", "lora_dropout", "lora_layers", "use_ema")
        prepare_lora(transformer, config, family, **{name: getattr(args, name) for name in names})
    if args.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()


@dataclass
class Schedule:
    """How many samples and steps a run has, over all processes."""

    step_samples: int
    first_step: int
    total_steps: int
    validation_steps: int
    sizes: dict[str, int] = field(default_factory=dict)

    def step_positions(self, position: int) -> range:
        """The positions of all samples in the optimizer step that holds `position`."""
        first = position - position % self.step_samples
        return range(first, first + self.step_samples)


def plan_schedule(args, accelerator: Accelerator, data: TrainingData, first_step: int) -> Schedule:
    step_samples = args.train_batch_size * accelerator.num_processes * args.gradient_accumulation_steps
    total_steps, validation_steps = args.max_train_steps or 1000, args.validation_steps
    if args.num_train_epochs and not args.max_train_steps:
        total_steps = args.num_train_epochs * -(-data.epoch_size() // step_samples)
    if args.validation_epochs:
        validation_steps = args.validation_epochs * -(-data.epoch_size() // step_samples)
    sizes = {SAMPLES_PER_STEP: step_samples, PROCESSES: accelerator.num_processes}
    if not args.streaming:
        sizes[SAMPLES_PER_EPOCH] = data.epoch_size()
    return Schedule(step_samples, first_step, total_steps, validation_steps, sizes)


@dataclass
class Run:
    """All that the loop works with."""

    args: argparse.Namespace
    config: TwinFlowConfig
    family: Family
    accelerator: Accelerator
    pipeline: DiffusionPipeline
    data: TrainingData
    schedule: Schedule
    loader: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    compute_loss: LossFunction
    average: Any
    validation: Validation
    scores: Scores | None
    score_book: ScoreBook | None
    health: TrainingHealth
    folder: RunFolder | None
    problems: list[str] = field(default_factory=list)
    """What was asked for and failed, while training went on."""

    @cached_property
    def trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.family.denoiser(self.pipeline).parameters() if parameter.requires_grad]


def on_main_process(accelerator: Accelerator, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises in the main process, in every process."""
    outcome = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (TwinFlowConfigError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def claim_folder(args, accelerator: Accelerator, exits: ExitStack) -> tuple[RunFolder | None, Path | None]:
    """The output folder, in the main process, and the checkpoint to resume from; a dry run claims and resumes nothing.

    Args:
        exits: gives the folder free.
    """
    if args.dry_run:
        return None, None
    folders = []

    def claim() -> Path | None:
        folders.append(RunFolder(args.output_dir))
        exits.callback(folders[0].release)
        return folders[0].choose(args.resume_from_checkpoint)

    checkpoint = on_main_process(accelerator, claim)
    if checkpoint:
        check_options(args, checkpoint)
    return (folders or [None])[0], checkpoint


def prepare_run(
    args,
    config: TwinFlowConfig,
    family: Family,
    accelerator: Accelerator,
    folder: RunFolder | None = None,
    checkpoint: Path | None = None,
) -> Run:
    """Load and build everything, and go back to a checkpoint if there is one."""
    source = open_source(
        DataConfig.from_arguments(args),
        args.output_dir,
        resume=checkpoint is not None,
        batch_size=args.train_batch_size,
    )
    pipeline = load_pipeline(args, config, family)
    family = family.bind(pipeline)
    data = TrainingData(
        source,
        family,
        pipeline,
        base_name=args.pretrained_model_name_or_path,
        seed=args.seed,
        batch_size=args.train_batch_size,
        tries_sizes=True,
    )
    transformer = family.denoiser(pipeline)

    schedule = plan_schedule(args, accelerator, data, checkpoint_step(checkpoint) if checkpoint else 0)
    if checkpoint:
        check_sizes(checkpoint, schedule.sizes)
    first, last = (step * schedule.step_samples for step in (schedule.first_step, schedule.total_steps))
    loader = data.loader(first_position=first, last_position=last, step_samples=schedule.step_samples)
    optimizer = build_optimizer(args, transformer, schedule.step_samples)
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=schedule.total_steps * accelerator.num_processes,
        num_cycles=args.lr_num_cycles,
        power=args.lr_power,
    )
    if args.compile:
        compile_blocks(transformer)
    teacher_copy = copy_for_teacher(transformer, config, args.use_ema)
    model, optimizer, lr_scheduler = accelerator.prepare(transformer, optimizer, lr_scheduler)
    if teacher_copy is not None:
        teacher_copy = place_teacher(accelerator, teacher_copy, args.offload_ema)
    compute_loss = build_loss(args, config, family, model, transformer, data.conditions, teacher_copy)
    TrainedWeights(transformer).register(accelerator)
    data.register(accelerator)
    average = compute_loss.teacher
    if average is None and args.use_ema:
        average = EMAOfTrained(transformer, args.flow_matching_ema_decay, accelerator.device)
    if average is not None:
        accelerator.register_for_checkpointing(average)
    validation = Validation(args, family, pipeline, accelerator, data.with_encoders)
    if not args.dry_run:
        validation.draw_base()
        start_trackers(accelerator, args.tracker_project_name, plain_arguments(args))
    if checkpoint:
        load_checkpoint(accelerator, checkpoint, optimizer, lr_scheduler)
        logger.info(f"resumed from {checkpoint}")
        if folder is not None:  # a kill may have come between a checkpoint and the removal of an older one
            folder.remove_old_checkpoints(args.checkpoints_total_limit)
    scores, book = build_scores(args, family, accelerator, validation, data, schedule)
    health = TrainingHealth(optimizer.optimizer, accelerator.device)
    run = Run(
        args, config, family, accelerator, pipeline, data, schedule, loader, model, optimizer, lr_scheduler,
        compute_loss, average, validation, scores, book, health, folder,
    )  # fmt: skip
    log_summary(run)
    return run


def log_summary(run: Run) -> None:
    """Say what is trained, on what, how, and where it goes."""
    args, schedule, transformer = run.args, run.schedule, run.family.denoiser(run.pipeline)
    parameters = list(transformer.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in parameters)
    where = args.dataset_name or args.instance_data_dir or args.prompts_file or ", ".join(args.data_files or [])
    samples = schedule.sizes.get(SAMPLES_PER_EPOCH)
    what = f"LoRA of rank {args.rank}" if args.train_type == "lora" else "all weights"
    precision = str(DTYPES[args.mixed_precision]).removeprefix("torch.")
    method = "TwinFlow" if args.twinflow_enabled else "flow matching"
    processes = f" on {run.accelerator.num_processes} processes" if run.accelerator.num_processes > 1 else ""
    lines = [
        f"model: {args.pretrained_model_name_or_path} ({type(transformer).__name__}, {precision})",
        f"data: {where}, {f'{samples:,} samples' if samples else 'a stream'} at {args.resolution} pixels",
        f"trains: {what} with {method}, {trained:,} of {total:,} parameters",
        f"steps: {schedule.first_step} to {schedule.total_steps}, {schedule.step_samples} samples each{processes}",
        f"output: {Path(args.output_dir).resolve()}",
    ]
    for line in lines:
        logger.info(line)


def build_loss(args, config, family: Family, model, transformer, prompts, teacher_copy) -> LossFunction:
    return LossFunction(
        config,
        family.velocity,
        model,
        transformer,
        seed=args.seed,
        flow_matching=FlowMatchingObjective(args.weighting_scheme, args.logit_mean, args.logit_std, args.mode_scale),
        unconditional=prompts([""]) if config.needs_unconditional and not family.takes_reference_image else None,
        use_ema=args.use_ema,
        teacher_copy=teacher_copy,
    )


def build_scores(args, family: Family, accelerator, validation, data: TrainingData, schedule: Schedule):
    """What takes the scores and what remembers them, where scores are asked for."""
    if not args.score_steps or args.dry_run:
        return None, None
    judge = load_judge(args.judge) if args.judge else None
    book = ScoreBook(
        args.output_dir,
        args.score_metric,
        args.score_higher_is_better,
        args.early_stopping_patience,
        schedule.first_step,
    )
    return Scores(args, family, accelerator, validation, data.samples, judge), book


def train_loop(run: Run) -> int:
    """Train to the last step, which it returns."""
    args, accelerator, schedule, teacher = run.args, run.accelerator, run.schedule, run.compute_loss.teacher
    step, is_step_start = schedule.first_step, True
    if step and (finish_step(run, step, is_resumed=True) or step == schedule.total_steps):
        return step
    progress = tqdm(
        total=schedule.total_steps, initial=step, desc="Steps", disable=not accelerator.is_local_main_process
    )
    throughput, time_limit = Throughput(accelerator.device), TimeLimit(args.max_train_minutes, accelerator)
    for batch in run.loader:
        if is_step_start and teacher is not None:
            teacher.update()
        grad_norm = train_micro_batch(run, batch)
        throughput.samples += len(batch["caption"]) * accelerator.num_processes
        is_step_start = accelerator.sync_gradients
        if not accelerator.sync_gradients:
            continue
        step += 1
        progress.update()
        if teacher is None and run.average is not None:
            run.average.update()
        if step % args.logging_steps == 0:
            progress.set_postfix(log_step(run, step, grad_norm, throughput))
            if time_limit.is_over():
                break
        if is_due(run, step):
            if finish_step(run, step):
                break
            throughput.start()
    return step


def is_due(run: Run, step: int) -> bool:
    """Whether more belongs to a step than training."""
    intervals = [run.args.checkpointing_steps, run.schedule.validation_steps]
    return any(step % interval == 0 for interval in [*intervals, *([run.args.score_steps] if run.scores else [])])


def finish_step(run: Run, step: int, is_resumed: bool = False) -> bool:
    """Write the checkpoint of a step, then draw and score if it is due; what belongs to the last step is in `finish`.

    Args:
        is_resumed: whether the run was resumed from this step's checkpoint; only what is missing is done then.

    Returns:
        whether the run is over, by its scores.
    """
    args, is_last = run.args, step == run.schedule.total_steps
    if step % args.checkpointing_steps == 0 and not is_resumed:
        keep_checkpoint(run, step)
    is_drawn = is_resumed and on_main_process(run.accelerator, grid_path(args.output_dir, step).is_file)
    if step % run.schedule.validation_steps == 0 and not is_last and not is_drawn:
        attempt(run, step, "drawing the validation prompts", lambda: validate(run, step))
    if not run.scores:
        return False
    if step % args.score_steps == 0 and not is_last and not run.score_book.has(step):
        attempt(run, step, "scoring", lambda: score(run, step))
    return run.score_book.is_over


def keep_checkpoint(run: Run, step: int) -> None:
    """Write a checkpoint of weights that are finite."""
    check_finite(run.trainable, step, run.accelerator)
    save_checkpoint(run.args, run.accelerator, step, run.folder, run.schedule.sizes)
    logger.info(f"step {step}: checkpoint saved")


def attempt(run: Run, step: int, what: str, work: Callable[[], Any]) -> Any:
    """Do what training does not depend on. If it fails, the run goes on, and ends with an exit code that says so.

    Several processes cannot tell whether the others failed too: their run stops.
    """
    try:
        return work()
    except TwinFlowConfigError:
        raise
    except Exception as error:
        if run.accelerator.num_processes > 1:
            raise
        run.problems.append(f"step {step}: {what} failed ({type(error).__name__}: {error})")
        logger.warning(run.problems[-1], exc_info=True)
        return None


def train_micro_batch(run: Run, batch: dict) -> torch.Tensor | None:
    """Forward, backward and, where it is the last micro-batch of its step, the step; then the gradient's norm."""
    accelerator, grad_norm, takes_step = run.accelerator, None, True
    with accelerator.accumulate(run.model), autocast(accelerator):
        passes_of = run.schedule.step_positions(batch["position"][0]) if shards_parameters(accelerator) else None
        unconditional = run.data.read_unconditional(batch) if run.config.needs_unconditional else None
        result = run.compute_loss(*run.data.read(batch), batch["position"], passes_of, unconditional)
        accelerator.backward(result.loss)
        run.health.record(result)
        if accelerator.sync_gradients:
            grad_norm = clip_grad_norm(accelerator, run.trainable, run.args.max_grad_norm)
            takes_step = run.health.guard_step(grad_norm) or accelerator.scaler is not None
        if takes_step:
            run.optimizer.step()
        run.lr_scheduler.step()
        run.optimizer.zero_grad()
    return grad_norm


def log_step(run: Run, step: int, grad_norm: torch.Tensor, throughput: Throughput) -> dict[str, float]:
    """Tell the trackers how training goes; returns what the progress bar shows."""
    accelerator = run.accelerator
    values = run.health.report(partial(accelerator.reduce, reduction="sum"))
    values |= {"grad_norm": float(grad_norm)} | learning_rates(run.optimizer) | throughput.report()
    if hasattr(run.compute_loss.teacher, "ema"):
        values["teacher_decay"] = run.compute_loss.teacher.ema.decay
    accelerator.log(values, step=step)
    if run.args.log_trajectory and run.config.twinflow_enabled and accelerator.is_main_process:
        log_trajectory(run, step)
    return {name: values[name] for name in ("loss", "lr") if name in values}


def log_trajectory(run: Run, step: int) -> None:
    """Show where the samples since the last logging step stood."""
    first = max(run.schedule.first_step, step - run.args.logging_steps) * run.schedule.step_samples
    positions = range(first, step * run.schedule.step_samples)[-TRAJECTORY_POINTS:]
    rows = trajectory_rows(run.config, run.compute_loss.rotation, positions, run.args.seed)
    log_picture(run.accelerator, NAME, trajectory_picture(rows), step)
    log_points(run.accelerator, NAME, COLUMNS, rows, TITLE, step)


def validate(run: Run, step: int, needed: Sequence[int] = ()) -> None:
    """Draw the validation prompts, for the folder of grids and the trackers; all processes take part.

    `needed` are step counts besides those that the arguments ask for.
    """
    args, accelerator = run.args, run.accelerator
    if not args.validation_prompts:
        return
    described = repository_config(args, run.config, run.family, step)
    columns = run.validation.draw(run.average, step, sorted({*args.validation_step_counts, *needed}), described)
    if accelerator.is_main_process:
        grid = labelled_grid(columns, args.validation_prompts)
        log_picture(accelerator, "validation", grid, step)
        logger.info(f"step {step}: validation images in {save_validation_grid(args.output_dir, step, grid)}")


def score(run: Run, step: int) -> None:
    """Score the model, and keep it if it is the best so far; all processes take part."""
    args, accelerator, book = run.args, run.accelerator, run.score_book
    values = run.scores.measure(run.average, repository_config(args, run.config, run.family, step))
    is_best = book.add(step, values)
    accelerator.log({f"score/{name}": value for name, value in values.items()}, step=step)
    if is_best:
        directory = Path(args.output_dir, BEST)
        save_result(args, run.config, run.family, run.pipeline, run.average, step, directory=directory)
    if accelerator.is_main_process:
        book.save()
        logger.info(f"step {step}: {values}; best so far at step {book.best['step']}")


def finish(run: Run, step: int) -> None:
    """Write the result, then score and draw it, write its card, and push it if that is asked for.

    Raises:
        FloatingPointError: if the weights are hardly trained or not finite; no result is written then.
    """
    args, accelerator = run.args, run.accelerator
    run.health.check_end(step - run.schedule.first_step)
    check_finite(run.trainable, step, run.accelerator)
    save_result(args, run.config, run.family, run.pipeline, run.average, step)
    logger.info(f"saved to {args.output_dir}")
    if run.scores and not run.score_book.has(step):
        attempt(run, step, "scoring", lambda: score(run, step))
    attempt(run, step, "drawing the validation prompts", lambda: draw_last(run, step))
    if accelerator.is_main_process:
        if args.twinflow_enabled:
            write_card(args, scores=run.score_book and run.score_book.last)
        run.folder.finish()
        if args.push_to_hub:
            push_result(args)
    accelerator.end_training()


def draw_last(run: Run, step: int) -> None:
    """Draw the validation prompts with the last weights, for their folder and for the model card."""
    validate(run, step, STEP_COUNTS)
    if run.args.validation_prompts and run.args.twinflow_enabled and run.accelerator.is_main_process:
        save_sample_grid(run.args, run.validation.samples(STEP_COUNTS))


def try_out(run: Run) -> None:
    """Measure a step of each kind and a picture, and report what the run would cost."""

    def take_step(batches: list[dict]) -> None:
        if run.compute_loss.teacher is not None:
            run.compute_loss.teacher.update()
        for batch in batches:
            train_micro_batch(run, batch)

    described = repository_config(run.args, run.config, run.family, run.schedule.first_step)
    report = DryRun(run, take_step, described).measure()
    if run.accelerator.is_main_process:
        print(format_report(report))
        print(f"written to {save_report(report, run.args.output_dir)}")
    run.accelerator.end_training()


def start_logging() -> None:
    """Show what this script and the package say, on the main process."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    for name in (__name__, "diffusers_twinflow"):
        logging.getLogger(name).setLevel(logging.INFO)


def train(args, exits: ExitStack) -> list[str]:
    """Do what the arguments ask for; returns what failed beside the training."""
    config, family = check_arguments(args)
    accelerator = build_accelerator(args)
    run = prepare_run(args, config, family, accelerator, *claim_folder(args, accelerator, exits))
    if args.dry_run:
        try_out(run)
    else:
        finish(run, train_loop(run))
    return run.problems


def speaks() -> bool:
    """Whether this process is the one that tells an error that all have."""
    if PartialState._shared_state:
        return PartialState().is_main_process
    return int(os.environ.get("RANK", 0)) == 0


def main(input_args: list[str] | None = None) -> None:
    start_logging()
    try:
        with ExitStack() as exits, stop_signals(), logging_redirect_tqdm():
            args = parse_args(input_args)
            problems = train(args, exits)
    except RunStopped as stopped:
        if speaks():
            print(
                f"stopped by {stopped.name}. To continue from the last checkpoint, run the same command with "
                "--resume_from_checkpoint latest",
                file=sys.stderr,
            )
        raise SystemExit(stopped.exit_code) from None
    except (TwinFlowConfigError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}" if speaks() else 1) from None
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise SystemExit(f"error: {error} Then run with --resume_from_checkpoint latest.") from None
    if problems:
        raise SystemExit(f"error: the result is saved, but {'; '.join(problems)}")


if __name__ == "__main__":
    main()
