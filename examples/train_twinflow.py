#!/usr/bin/env python
"""Distil a flow-matching text-to-image model with TwinFlow, or train it with ordinary flow matching.

accelerate launch examples/train_twinflow.py --config recipe.json --output_dir out
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, ProjectConfiguration, set_seed
from diffusers import DiffusionPipeline
from diffusers.optimization import SchedulerType, get_scheduler
from tqdm.auto import tqdm

from diffusers_twinflow.configuration import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.data import CAPTION_STRATEGIES, DataConfig, TrainingData, open_source
from diffusers_twinflow.families import Family, family_of
from diffusers_twinflow.hub.push import whole_repo_id
from diffusers_twinflow.hub.samples import STEP_COUNTS
from diffusers_twinflow.training import deepspeed
from diffusers_twinflow.training.arguments import parse_with_config, save_arguments
from diffusers_twinflow.training.base_model import (
    DTYPES,
    has_flow_matching_scheduler,
    load_frozen_pipeline,
    load_model_index,
    prepare_full,
    prepare_lora,
)
from diffusers_twinflow.training.checkpoints import checkpoint_step, find_checkpoint, remove_unfinished
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
from diffusers_twinflow.training.flow_matching import WEIGHTINGS, FlowMatchingObjective
from diffusers_twinflow.training.health import TrainingHealth
from diffusers_twinflow.training.loss import LossFunction
from diffusers_twinflow.training.optimizer import OPTIMIZERS, build_optimizer, check_optimizer, learning_rates
from diffusers_twinflow.training.quantization import LIBRARIES as QUANTIZATIONS
from diffusers_twinflow.training.quantization import check_quantization
from diffusers_twinflow.training.saving import (
    load_checkpoint,
    plain_arguments,
    publish_card,
    repository_config,
    save_checkpoint,
    save_result,
)
from diffusers_twinflow.training.scores import ScoreBook, Scores, check_scores, load_judge
from diffusers_twinflow.training.state import TrainedWeights
from diffusers_twinflow.training.teacher import copy_for_teacher
from diffusers_twinflow.training.time_limit import TimeLimit
from diffusers_twinflow.training.trackers import (
    Throughput,
    check_trackers,
    log_picture,
    log_points,
    start_trackers,
    tracker_names,
)
from diffusers_twinflow.training.trajectory import COLUMNS, NAME, TITLE, trajectory_picture, trajectory_rows
from diffusers_twinflow.training.validation import Validation, labelled_grid, save_validation_grid

logger = get_logger(__name__)

SWITCH = argparse.BooleanOptionalAction
TRAJECTORY_POINTS = 1024
BEST = "best"
LONGEST_WAIT = timedelta(hours=3)
"""How long processes wait for each other: one looks through the data, all encode their share, one draws pictures."""
AT_LEAST_ONE = (
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "num_train_epochs",
    "rank",
    "repeats",
    "num_frames",
    "checkpointing_steps",
    "validation_steps",
    "validation_epochs",
    "num_validation_images",
    "logging_steps",
    "score_steps",
    "num_score_images",
    "early_stopping_patience",
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        kind = {"action": SWITCH} if option.type is bool else {"type": option.type}
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
    group.add_argument("--rank", type=int, default=64, help="Rank of the LoRA.")
    group.add_argument("--lora_alpha", type=float, help="Defaults to the rank.")
    group.add_argument("--lora_dropout", type=float, default=0.0, help="Dropout of the LoRA's inputs.")
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
        type=float,
        default=0.0,
        help="Part of the captions that the empty one replaces.",
    )
    group.add_argument("--repeats", type=int, default=1, help="How often an epoch sees each image.")
    group.add_argument("--prompts_file", help="Prompts, one a line, for image-free training.")
    group.add_argument("--resolution", type=int, default=512, help="Side of the squares in pixels.")
    group.add_argument("--num_frames", type=int, help="Train a video model on clips of so many frames.")
    group.add_argument("--video_fps", type=float, help="Frames taken of a second of video; by default every frame.")
    group.add_argument("--center_crop", action=SWITCH, default=True, help="Crop in the middle, or anywhere.")
    group.add_argument("--random_flip", action=SWITCH, default=False, help="Mirror half of the samples.")
    group.add_argument(
        "--aspect_ratio_buckets", nargs="?", const="auto", help="'auto', or sizes: 'height,width;height,width'."
    )
    group.add_argument("--stop_on_bad_samples", action=SWITCH, default=False, help="Rather than leave them out.")
    group.add_argument(
        "--dataloader_num_workers", type=int, default=0, help="Processes that read the data; 0 is the main one."
    )


def add_cache_arguments(group) -> None:
    group.add_argument("--max_sequence_length", type=int, help="Tokens of a prompt; defaults to the family's.")
    group.add_argument("--cache_latents", action=SWITCH, default=False, help="Encode every image once, beforehand.")
    group.add_argument("--cache_text_embeddings", action=SWITCH, default=False, help="Encode every prompt once.")
    group.add_argument("--cache_directory", help="Keep what is encoded on disk, for later runs.")


def add_optimizer_arguments(group) -> None:
    kinds = [kind.value for kind in SchedulerType if kind is not SchedulerType.PIECEWISE_CONSTANT]
    group.add_argument(
        "--optimizer", type=str.lower, choices=OPTIMIZERS, default="adamw", help="Fused AdamW, or that of prodigyopt."
    )
    group.add_argument("--use_8bit_adam", action=SWITCH, default=False, help="AdamW of bitsandbytes.")
    group.add_argument("--learning_rate", type=float, default=1e-4, help="Of the weights that train.")
    group.add_argument("--time_conditioning_learning_rate", type=float, help="Defaults to --learning_rate.")
    group.add_argument("--scale_lr", action=SWITCH, default=False, help="Times the samples of a step.")
    group.add_argument("--lr_scheduler", choices=kinds, default="constant", help="As diffusers has them.")
    group.add_argument("--lr_warmup_steps", type=int, default=0, help="Steps in which the rate rises from 0.")
    group.add_argument("--lr_num_cycles", type=int, default=1, help="Restarts of cosine_with_restarts.")
    group.add_argument("--lr_power", type=float, default=1.0, help="Power of polynomial.")
    group.add_argument("--adam_beta1", type=float, default=0.9, help="Of AdamW and Prodigy.")
    group.add_argument("--adam_beta2", type=float, default=0.99, help="Of AdamW and Prodigy.")
    group.add_argument("--adam_weight_decay", type=float, default=0.0, help="Of AdamW and Prodigy.")
    group.add_argument("--adam_epsilon", type=float, default=1e-8, help="Of AdamW and Prodigy.")
    group.add_argument("--prodigy_beta3", type=float, help="Defaults to the root of --adam_beta2.")
    group.add_argument("--prodigy_decouple", action=SWITCH, default=True, help="Decay weights as AdamW does.")
    group.add_argument("--prodigy_use_bias_correction", action=SWITCH, default=True, help="As in Adam.")
    group.add_argument(
        "--prodigy_safeguard_warmup",
        action=SWITCH,
        default=True,
        help="Keep a warm-up out of the estimate of the rate.",
    )
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="Norm that gradients are clipped to.")


def add_loop_arguments(group) -> None:
    group.add_argument("--train_batch_size", type=int, default=4, help="Samples of one micro-batch of one process.")
    group.add_argument("--gradient_accumulation_steps", type=int, default=1, help="Micro-batches of one step.")
    group.add_argument("--max_train_steps", type=int, help="Defaults to --num_train_epochs, or to 1000 steps.")
    group.add_argument("--num_train_epochs", type=int, help="Where --max_train_steps is not given.")
    group.add_argument("--max_train_minutes", type=float, help="End the run after so long as if it were done.")
    group.add_argument("--gradient_checkpointing", action=SWITCH, default=False, help="Less memory, more time.")
    group.add_argument("--compile", action=SWITCH, default=False, help="Compile the transformer's blocks.")
    group.add_argument(
        "--mixed_precision",
        choices=list(DTYPES),
        help="Of the passes and of what is frozen; defaults to that of accelerate's configuration.",
    )
    group.add_argument("--allow_tf32", action=SWITCH, default=False, help="TF32 in float32 products on CUDA.")
    group.add_argument("--seed", type=int, default=0, help="Of everything that is drawn.")
    group.add_argument("--local_rank", type=int, default=-1, help="Given by launchers; LOCAL_RANK is what counts.")
    group.add_argument(
        "--weighting_scheme", choices=WEIGHTINGS, default="none", help="Density of t for flow matching (TwinFlow off)."
    )
    group.add_argument("--logit_mean", type=float, default=0.0, help="Of logit_normal.")
    group.add_argument("--logit_std", type=float, default=1.0, help="Of logit_normal.")
    group.add_argument("--mode_scale", type=float, default=1.29, help="Of mode.")
    group.add_argument("--flow_matching_ema_decay", type=float, default=0.9999, help="Of --use_ema, TwinFlow off.")


def add_output_arguments(group) -> None:
    group.add_argument("--output_dir", default="twinflow-output", help="Where everything is written.")
    group.add_argument("--save_ema", action=SWITCH, default=True, help="Save the EMA weights rather than the last.")
    group.add_argument("--upcast_before_saving", action=SWITCH, default=True, help="Save the LoRA in float32.")
    group.add_argument(
        "--dry_run", action=SWITCH, default=False, help="A step of each kind and a picture, then a report, then stop."
    )
    group.add_argument("--checkpointing_steps", type=int, default=500, help="Write a checkpoint every so many steps.")
    group.add_argument("--checkpoints_total_limit", type=int, help="Keep only the newest ones.")
    group.add_argument("--resume_from_checkpoint", help="A checkpoint's name, or 'latest'.")


def add_validation_arguments(group) -> None:
    group.add_argument("--validation_prompts", "--validation_prompt", nargs="+", help="What to draw.")
    group.add_argument("--validation_steps", type=int, default=500, help="Draw every so many steps, and at the end.")
    group.add_argument("--validation_epochs", type=int, help="Draw every so many epochs instead.")
    group.add_argument("--validation_step_counts", type=int, nargs="+", default=[1, 2, 4], help="TwinFlow's columns.")
    group.add_argument("--validation_base_steps", type=int, help="Of the base's column; 0 for none.")
    group.add_argument("--validation_image", help="Image that the validation prompts edit, where the model edits.")
    group.add_argument("--validation_resolution", type=int, help="Defaults to --resolution.")
    group.add_argument("--num_validation_images", type=int, default=4, help="Of each prompt.")
    group.add_argument("--report_to", nargs="+", default=["none"], help="Trackers of accelerate, 'all' or 'none'.")
    group.add_argument("--tracker_project_name", default="twinflow", help="Of the trackers.")
    group.add_argument("--logging_dir", default="logs", help="In --output_dir.")
    group.add_argument("--logging_steps", type=int, default=10, help="Log every so many steps.")
    group.add_argument(
        "--log_trajectory", action=SWITCH, default=False, help="Picture of the times trained on (experimental)."
    )


def add_score_arguments(group) -> None:
    group.add_argument("--score_steps", type=int, help="Score pictures every so many steps, and at the end.")
    group.add_argument("--frechet_model", help="Directory of a transformers image model, for the Fréchet distance.")
    group.add_argument("--prompt_score_model", help="Directory of a transformers CLIP, for the prompt score.")
    group.add_argument("--judge", help="module:function that takes pictures and prompts and returns scores.")
    group.add_argument("--num_score_images", type=int, default=64, help="Pictures that a score is taken of.")
    group.add_argument("--score_metric", help="The score that decides which adapter is best; defaults to the first.")
    group.add_argument("--score_higher_is_better", action=SWITCH, help="Defaults to what is usual for the score.")
    group.add_argument("--early_stopping_patience", type=int, help="Stop after so many scores without a better one.")


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
    for name in AT_LEAST_ONE:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise TwinFlowConfigError(f"--{name}={getattr(args, name)} must be 1 or more.")
    check_push(args)
    check_precision(args.mixed_precision)
    check_quantization(args.quantize_base, args.train_type)
    check_optimizer(args)
    check_scores(args)
    if args.resume_from_checkpoint:
        find_checkpoint(args.output_dir, args.resume_from_checkpoint)
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
    return Schedule(step_samples, first_step, total_steps, validation_steps)


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

    @cached_property
    def trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.family.denoiser(self.pipeline).parameters() if parameter.requires_grad]


def prepare_run(args, config: TwinFlowConfig, family: Family) -> Run:
    """Load and build everything, and go back to a checkpoint where one is asked for."""
    accelerator = build_accelerator(args)
    source = open_source(
        DataConfig.from_arguments(args),
        args.output_dir,
        resume=bool(args.resume_from_checkpoint),
        batch_size=args.train_batch_size,
    )
    pipeline = load_pipeline(args, config, family)
    family = family.bind(pipeline)
    base_name = args.pretrained_model_name_or_path
    data = TrainingData(
        source, family, pipeline, base_name=base_name, seed=args.seed, batch_size=args.train_batch_size
    )
    transformer = family.denoiser(pipeline)

    if accelerator.is_main_process:
        remove_unfinished(args.output_dir)
    checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint) if args.resume_from_checkpoint else None
    schedule = plan_schedule(args, accelerator, data, checkpoint_step(checkpoint) if checkpoint else 0)
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
        load_checkpoint(accelerator, checkpoint)
        logger.info(f"resumed from {checkpoint}")
    scores, book = build_scores(args, family, accelerator, validation, data, schedule)
    health = TrainingHealth(optimizer.optimizer, accelerator.device)
    return Run(
        args, config, family, accelerator, pipeline, data, schedule, loader, model, optimizer, lr_scheduler,
        compute_loss, average, validation, scores, book, health,
    )  # fmt: skip


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
        if step % args.checkpointing_steps == 0:
            save_checkpoint(args, accelerator, step)
            throughput.start()
        if step % schedule.validation_steps == 0 and step != schedule.total_steps:
            validate(run, step)
            throughput.start()
        if run.scores and (step % args.score_steps == 0 or step == schedule.total_steps):
            if score(run, step):
                break
            throughput.start()
    return step


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
        grid = labelled_grid(columns)
        log_picture(accelerator, "validation", grid, step)
        logger.info(f"step {step}: validation images in {save_validation_grid(args.output_dir, step, grid)}")


def score(run: Run, step: int) -> bool:
    """Score the model, keep it where it is the best so far, and tell whether to stop; all processes take part."""
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
    return book.is_over


def finish(run: Run, step: int) -> None:
    """Draw the last pictures, write the result and its arguments, and push it where that is asked for."""
    args, accelerator = run.args, run.accelerator
    validate(run, step, STEP_COUNTS)
    accelerator.wait_for_everyone()
    samples = run.validation.samples(STEP_COUNTS) if args.validation_prompts and args.twinflow_enabled else None
    save_result(args, run.config, run.family, run.pipeline, run.average, step, samples=samples)
    if accelerator.is_main_process:
        save_arguments(args, args.output_dir)
        if args.twinflow_enabled:
            publish_card(args, scores=run.score_book and run.score_book.last)
        logger.info(f"saved to {args.output_dir}")
    accelerator.end_training()


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


def main(input_args: list[str] | None = None) -> None:
    try:
        args = parse_args(input_args)
        config, family = check_arguments(args)
        run = prepare_run(args, config, family)
        if args.dry_run:
            try_out(run)
        else:
            finish(run, train_loop(run))
    except TwinFlowConfigError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
