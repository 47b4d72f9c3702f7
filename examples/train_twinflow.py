#!/usr/bin/env python
"""Distil a flow-matching text-to-image model with TwinFlow, or train it with ordinary flow matching.

accelerate launch examples/train_twinflow.py --config recipe.json --output_dir out
"""

import argparse
import os
import warnings
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import peft
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, set_seed
from diffusers import DiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from tqdm.auto import tqdm

import diffusers_twinflow
from diffusers_twinflow.configuration import TwinFlowConfig, TwinFlowConfigError, check_option_name, read_json_options
from diffusers_twinflow.families import Family, family_of, is_flow_matching
from diffusers_twinflow.hub import (
    TwinFlowRepositoryConfig,
    ignored_options,
    push_twinflow_lora,
    save_model_card,
    save_samples,
    save_stock_lora,
    save_twinflow_lora,
    save_twinflow_model,
    translate_recipe,
)
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.pipelines import as_twinflow_pipeline
from diffusers_twinflow.schedulers import TwinFlowScheduler
from diffusers_twinflow.training.branches import BranchRotation
from diffusers_twinflow.training.checkpoints import (
    checkpoint_step,
    find_checkpoint,
    publish_directory,
    remove_old_checkpoints,
    remove_unfinished,
    unfinished_directory,
)
from diffusers_twinflow.training.compilation import compile_blocks
from diffusers_twinflow.training.data import (
    CaptionedImages,
    PromptEmbeddings,
    cache_latents,
    drop_prompts,
    load_captioned_images,
)
from diffusers_twinflow.training.draw import draw_training_step
from diffusers_twinflow.training.flow_matching import FlowMatchingObjective
from diffusers_twinflow.training.health import TrainingHealth
from diffusers_twinflow.training.objective import TwinFlowObjective
from diffusers_twinflow.training.sampler import RunSampler
from diffusers_twinflow.training.state import TrainedWeights
from diffusers_twinflow.training.teacher import add_teacher_adapter, build_teacher, needs_teacher_adapter
from diffusers_twinflow.training.validation import save_validation_grid, validation_grid

logger = get_logger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--config", help="JSON file of options; arguments win over it.")

    group = parser.add_argument_group("model")
    group.add_argument("--pretrained_model_name_or_path", help="Hub id or directory of the base pipeline (required).")
    group.add_argument("--revision", help="Revision of the base on the Hub.")
    group.add_argument("--variant", help="Variant of the base's files, such as fp16.")
    group.add_argument("--train_type", choices=["lora", "full"], default="lora")
    group.add_argument("--rank", type=int, default=64, help="Rank of the LoRA.")
    group.add_argument("--lora_alpha", type=float, help="Defaults to the rank.")
    group.add_argument("--lora_dropout", type=float, default=0.0)
    group.add_argument("--lora_layers", nargs="+", help="Module names to adapt; defaults to the family's.")
    group.add_argument("--use_ema", action=switch, default=True, help="Keep the EMA teacher.")

    group = parser.add_argument_group("data")
    group.add_argument("--dataset_name", help="Hub dataset or local folder (required).")
    group.add_argument("--dataset_config_name")
    group.add_argument("--dataset_split", default="train")
    group.add_argument("--cache_dir", help="Where downloads are kept.")
    group.add_argument("--image_column", default="image")
    group.add_argument("--caption_column", default="text")
    group.add_argument("--resolution", type=int, default=512)
    group.add_argument("--random_flip", action=switch, default=False)
    group.add_argument("--max_sequence_length", type=int, help="Tokens of a prompt; defaults to the family's.")
    group.add_argument("--proportion_empty_prompts", type=float, default=0.0)
    group.add_argument(
        "--cache_latents", action=switch, default=False, help="Encode every image once, before training."
    )
    group.add_argument("--cache_text_embeddings", action=switch, default=False, help="Encode every prompt once.")
    group.add_argument("--dataloader_num_workers", type=int, default=0)

    group = parser.add_argument_group("optimisation")
    group.add_argument("--learning_rate", type=float, default=1e-4)
    group.add_argument("--time_conditioning_learning_rate", type=float, help="Defaults to --learning_rate.")
    group.add_argument("--lr_scheduler", default="constant")
    group.add_argument("--lr_warmup_steps", type=int, default=0)
    group.add_argument("--adam_beta1", type=float, default=0.9)
    group.add_argument("--adam_beta2", type=float, default=0.99)
    group.add_argument("--adam_weight_decay", type=float, default=0.0)
    group.add_argument("--adam_epsilon", type=float, default=1e-8)
    group.add_argument("--max_grad_norm", type=float, default=1.0)
    group.add_argument("--train_batch_size", type=int, default=4, help="Samples of one micro-batch of one process.")
    group.add_argument("--gradient_accumulation_steps", type=int, default=1)
    group.add_argument("--max_train_steps", type=int, default=1000)
    group.add_argument("--gradient_checkpointing", action=switch, default=False)
    group.add_argument("--compile", action=switch, default=False, help="Compile the transformer's blocks.")
    group.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no")
    group.add_argument("--allow_tf32", action=switch, default=False)
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--weighting_scheme", default="none", help="Density of t for flow matching (TwinFlow off).")
    group.add_argument("--logit_mean", type=float, default=0.0)
    group.add_argument("--logit_std", type=float, default=1.0)

    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", default="twinflow-output")
    group.add_argument("--save_ema", action=switch, default=True, help="Save the EMA weights rather than the last.")
    group.add_argument("--checkpointing_steps", type=int, default=500)
    group.add_argument("--checkpoints_total_limit", type=int)
    group.add_argument("--resume_from_checkpoint", help="A checkpoint's name, or 'latest'.")
    group.add_argument("--validation_prompts", nargs="+")
    group.add_argument("--validation_steps", type=int, default=500)
    group.add_argument("--num_validation_images", type=int, default=4)
    group.add_argument("--report_to", default="none", help="A tracker of accelerate, such as tensorboard, or 'none'.")
    group.add_argument("--logging_dir", default="logs")
    group.add_argument("--logging_steps", type=int, default=10)
    group.add_argument("--push_to_hub", action=switch, default=False, help="Push the LoRA when it is trained.")
    group.add_argument("--hub_model_id", help="Repository to push to, such as me/my-lora.")
    group.add_argument("--hub_base_model", help="Hub id of the base, where it is trained from a directory.")
    group.add_argument("--hub_token", help="Defaults to the token that you logged in with.")
    group.add_argument("--hub_private_repo", action=switch, help="Visibility of a new repository.")
    group.add_argument("--hub_revision", help="Branch to push to.")

    group = parser.add_argument_group("TwinFlow")
    for option in fields(TwinFlowConfig):
        kind = {"action": switch} if option.type is bool else {"type": option.type}
        group.add_argument(f"--{option.name}", default=option.default, help=option.metadata["help"], **kind)
    return parser


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(input_args)
    if args.config:
        known = [action.dest for action in parser._actions]
        from_file = []
        recipe = read_json_options(args.config)
        for name, reason in ignored_options(recipe).items():
            warnings.warn(f"option '{name}' of {args.config} has no effect: {reason}", stacklevel=2)
        for name, value in translate_recipe(recipe, known).items():
            check_option_name(name, known)
            from_file += as_arguments(name, value)
        given = parser.parse_args(from_file)
        args = parser.parse_args(input_args, namespace=given)
    return args


def as_arguments(name: str, value) -> list[str]:
    """A JSON option as command line arguments, so that types and choices are checked in one place."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def check_arguments(args: argparse.Namespace) -> tuple[TwinFlowConfig, Family]:
    """Everything that can be refused before a model is loaded."""
    for name in ("pretrained_model_name_or_path", "dataset_name"):
        if not getattr(args, name):
            raise TwinFlowConfigError(f"--{name} is missing: give it as an argument or in the --config file.")
    for name in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "rank", "checkpointing_steps"):
        if getattr(args, name) < 1:
            raise TwinFlowConfigError(f"--{name}={getattr(args, name)} must be 1 or more.")
    check_push(args)
    config = TwinFlowConfig.from_dict({name: getattr(args, name) for name in TwinFlowConfig.option_names()})
    index = load_model_index(args)
    config.check_training(flow_matching=has_flow_matching_scheduler(args, index), use_ema=args.use_ema)
    return config, family_of(index["_class_name"])


def check_push(args) -> None:
    if not args.push_to_hub:
        return
    if args.hub_token and args.report_to == "wandb":
        raise TwinFlowConfigError(
            "--hub_token with --report_to=wandb would log the token: use `hf auth login` instead."
        )
    if args.train_type != "lora" or not args.twinflow_enabled:
        raise TwinFlowConfigError("--push_to_hub pushes TwinFlow LoRAs: train with --train_type=lora and TwinFlow on.")
    if "/" not in (args.hub_model_id or ""):
        raise TwinFlowConfigError(f"--hub_model_id={args.hub_model_id!r} must name a repository, such as me/my-lora.")
    if Path(args.pretrained_model_name_or_path).is_dir() and not args.hub_base_model:
        raise TwinFlowConfigError(
            f"--push_to_hub with --pretrained_model_name_or_path='{args.pretrained_model_name_or_path}', a base that "
            "only this machine has: name its Hub id with --hub_base_model."
        )


def load_model_index(args) -> dict:
    try:
        return DiffusionPipeline.load_config(
            args.pretrained_model_name_or_path, revision=args.revision, cache_dir=args.cache_dir
        )
    except OSError as error:
        raise TwinFlowConfigError(
            f"--pretrained_model_name_or_path='{args.pretrained_model_name_or_path}' holds no diffusers pipeline "
            f"({error}): give a Hub id or a directory with a model_index.json."
        ) from error


def has_flow_matching_scheduler(args, index: dict) -> bool:
    class_name = index["scheduler"][1]
    scheduler_class = getattr(diffusers, class_name, TwinFlowScheduler)
    scheduler_config = scheduler_class.load_config(
        args.pretrained_model_name_or_path, subfolder="scheduler", revision=args.revision, cache_dir=args.cache_dir
    )
    return is_flow_matching(class_name, scheduler_config)


def load_pipeline(args, family: Family, weight_dtype: torch.dtype) -> DiffusionPipeline:
    """The base with its transformer in float32 for full training, everything else in the training dtype."""
    full_precision = {family.component_name: torch.float32} if args.train_type == "full" else {}
    pipeline = family.load(
        args.pretrained_model_name_or_path,
        revision=args.revision,
        variant=args.variant,
        cache_dir=args.cache_dir,
        dtype={"default": weight_dtype, **full_precision},
    )
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    return pipeline


def prepare_transformer(args, config: TwinFlowConfig, family: Family, transformer: torch.nn.Module) -> None:
    """Add what is trained, and the teacher's adapter where there is one."""
    if config.twinflow_enabled:
        enable_twinflow(transformer, family.transformer_class)
    if args.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if args.train_type == "full":
        transformer.requires_grad_(True)
    else:
        lora_config = LoraConfig(
            r=args.rank,
            lora_alpha=args.lora_alpha or args.rank,
            lora_dropout=args.lora_dropout,
            init_lora_weights="gaussian",
            target_modules=args.lora_layers or family.lora_target_modules,
        )
        transformer.add_adapter(lora_config)
        if config.twinflow_enabled:
            transformer.time_conditioning.requires_grad_(True)
        cast_training_params(transformer, torch.float32)
        if needs_teacher_adapter(config, args.use_ema):
            add_teacher_adapter(transformer, lora_config)
    transformer.train()


def build_optimizer(args, transformer: torch.nn.Module) -> torch.optim.Optimizer:
    conditioning, weights = [], []
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            (conditioning if name.startswith("time_conditioning.") else weights).append(parameter)
    conditioning_learning_rate = args.time_conditioning_learning_rate or args.learning_rate
    return torch.optim.AdamW(
        [{"params": weights}, {"params": conditioning, "lr": conditioning_learning_rate}],
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        weight_decay=args.adam_weight_decay,
        eps=args.adam_epsilon,
        fused=True,
    )


class LossFunction:
    """The loss of one micro-batch at known positions of the run: TwinFlow's, or flow matching's where it is off."""

    def __init__(self, args, config: TwinFlowConfig, family: Family, model, transformer, unconditional):
        self.config, self.seed, self.unconditional = config, args.seed, unconditional
        self.student, self.student_without_grad = family.velocity(model), family.velocity(transformer)
        self.teacher = None
        if config.twinflow_enabled:
            self.rotation = BranchRotation(config.branch_shares)
            self.objective = TwinFlowObjective(config, self.rotation)
            self.teacher = build_teacher(transformer, family.velocity, config, args.use_ema)
        else:
            self.objective = FlowMatchingObjective(args.weighting_scheme, args.logit_mean, args.logit_std)

    def __call__(self, latents: torch.Tensor, condition: dict, positions: list[int]):
        where = {"seed": self.seed, "device": latents.device}
        if self.teacher is None:
            draw = self.objective.draw(positions, latents.shape[1:], **where)
            return self.objective(latents, condition, draw, student=self.student)
        return self.objective(
            latents,
            condition,
            draw_training_step(self.config, self.rotation, positions, latents.shape[1:], **where),
            student=self.student,
            student_without_grad=self.student_without_grad,
            teacher=self.teacher,
            unconditional=self.unconditional,
        )


def build_dataset(args, family: Family, pipeline: DiffusionPipeline, accelerator: Accelerator):
    dataset = load_captioned_images(
        args.dataset_name,
        config_name=args.dataset_config_name,
        split=args.dataset_split,
        image_column=args.image_column,
        caption_column=args.caption_column,
        cache_dir=args.cache_dir,
    )
    images = CaptionedImages(dataset, args.image_column, args.caption_column, args.resolution, args.random_flip)
    if not args.cache_latents:
        return images
    encode = partial(encode_images, family, pipeline, accelerator)
    return cache_latents(images, encode, max(args.train_batch_size, 16), accelerator.is_local_main_process)


@torch.no_grad()
def encode_images(family: Family, pipeline: DiffusionPipeline, accelerator: Accelerator, pixels: torch.Tensor):
    return family.encode_images(pipeline, pixels.to(accelerator.device))


def validate(args, config: TwinFlowConfig, family: Family, pipeline, accelerator: Accelerator, step: int) -> None:
    """Draw the validation prompts as a user will: few steps without guidance, or as the stock pipeline does."""
    if not (args.validation_prompts and accelerator.is_main_process):
        return
    options = {}
    if config.twinflow_enabled:
        pipeline = as_twinflow_pipeline(
            family.pipeline_class(**pipeline.components), repository_config(args, config, family, step)
        )
    elif args.max_sequence_length:
        options["max_sequence_length"] = args.max_sequence_length
    with accelerator.autocast():
        grid = validation_grid(pipeline, args.validation_prompts, args.num_validation_images, args.seed, **options)
    path = save_validation_grid(args.output_dir, step, grid)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_image("validation", np.asarray(grid), step, dataformats="HWC")
        else:
            tracker.log_images({"validation": [grid]}, step=step)
    logger.info(f"step {step}: validation images in {path}")


def repository_config(args, config: TwinFlowConfig, family: Family, step: int) -> TwinFlowRepositoryConfig:
    base = args.pretrained_model_name_or_path
    return TwinFlowRepositoryConfig(
        train_type=args.train_type,
        family=family.name,
        base_model=os.path.relpath(base, args.output_dir) if Path(base).is_dir() else base,
        base_model_revision=args.revision,
        num_inference_steps=config.twinflow_target_step_count,
        max_sequence_length=args.max_sequence_length,
        options=config.to_dict(),
        trained={
            "steps": step,
            "arguments": tracker_config(args),
            "versions": {
                library.__name__: library.__version__ for library in (torch, diffusers, peft, diffusers_twinflow)
            },
        },
    )


def tracker_config(args) -> dict:
    """The arguments as plain values, without the TwinFlow options and local paths."""
    left_out = {
        *TwinFlowConfig.option_names(),
        "hub_token",
        "config",
        "output_dir",
        "logging_dir",
        "cache_dir",
        "resume_from_checkpoint",
    }
    return {k: v for k, v in vars(args).items() if k not in left_out and isinstance(v, (int, float, str))}


def save_checkpoint(args, accelerator: Accelerator, step: int) -> None:
    """Write `checkpoint-{step}`, which is there only once it is complete."""
    directory = Path(args.output_dir) / f"checkpoint-{step}"
    with unfinished_directory(directory, accelerator) as unfinished:
        accelerator.save_state(str(unfinished))
    if accelerator.is_main_process:
        remove_old_checkpoints(args.output_dir, args.checkpoints_total_limit)


def save_result(args, config: TwinFlowConfig, family: Family, pipeline, teacher, step: int) -> None:
    """Write the repository that `TwinFlowPipeline.from_pretrained` loads."""
    if not config.twinflow_enabled:
        save_flow_matching(args, family, pipeline)
        return
    saved = repository_config(args, config, family, step)
    if args.train_type == "lora":
        save_lora(args, family, pipeline, teacher, saved)
    else:
        weights = teacher.transformer if args.save_ema and hasattr(teacher, "transformer") else family.denoiser(pipeline)
        result = family.pipeline_class(**{**pipeline.components, family.component_name: weights})
        publish_directory(args.output_dir, lambda directory: save_twinflow_model(directory, result, saved))


def save_lora(args, family: Family, pipeline, teacher, saved: TwinFlowRepositoryConfig) -> None:
    """Write LoRA, time conditioning, samples and model card, and push them where that is asked for."""
    names = teacher.saved_names if args.save_ema else {}
    scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
    transformer = family.denoiser(pipeline)
    prompts = args.validation_prompts or []

    def write(directory: Path) -> None:
        save_twinflow_lora(directory, transformer, saved, scheduler, **names)
        if prompts:
            shown = as_twinflow_pipeline(family.pipeline_class(**pipeline.components), saved)
            with teacher.activated() if args.save_ema else nullcontext():
                save_samples(directory, shown, prompts, seed=args.seed)

    transformer.eval()
    publish_directory(args.output_dir, write)
    repository_id = args.hub_model_id or Path(args.output_dir).resolve().name
    base_model = args.hub_base_model
    save_model_card(args.output_dir, repository_id, prompts=prompts, base_model=base_model, cache_dir=args.cache_dir)
    if args.push_to_hub:
        push_twinflow_lora(
            args.output_dir,
            repository_id,
            token=args.hub_token,
            base_model=base_model,
            private=args.hub_private_repo,
            revision=args.hub_revision,
        )


def save_flow_matching(args, family: Family, pipeline) -> None:
    """Write a stock LoRA or a stock pipeline."""
    if args.train_type == "full":
        publish_directory(args.output_dir, pipeline.save_pretrained)
        return
    publish_directory(args.output_dir, lambda directory: save_stock_lora(directory, family.denoiser(pipeline), family))


def train(args, config: TwinFlowConfig, family: Family) -> None:
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir, args.logging_dir))),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=args.gradient_accumulation_steps, sync_with_dataloader=False
        ),
    )
    set_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
    weight_dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.mixed_precision]

    pipeline = load_pipeline(args, family, weight_dtype)
    transformer = family.denoiser(pipeline)
    prepare_transformer(args, config, family, transformer)
    pipeline.to(accelerator.device)
    prompts = PromptEmbeddings(
        lambda texts: family.encode_prompts(pipeline, texts, args.max_sequence_length), keep=args.cache_text_embeddings
    )
    dataset = build_dataset(args, family, pipeline, accelerator)

    if accelerator.is_main_process:
        remove_unfinished(args.output_dir)
    checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint) if args.resume_from_checkpoint else None
    first_step = checkpoint_step(checkpoint) if checkpoint else 0
    micro_batch = args.train_batch_size * accelerator.num_processes
    step_samples = micro_batch * args.gradient_accumulation_steps
    sampler = RunSampler(len(dataset), args.seed, first_step * step_samples, args.max_train_steps * step_samples)
    loader = torch.utils.data.DataLoader(
        dataset, sampler=sampler, batch_size=args.train_batch_size, num_workers=args.dataloader_num_workers
    )
    optimizer = build_optimizer(args, transformer)
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=args.max_train_steps * accelerator.num_processes,
    )
    if args.compile:
        compile_blocks(transformer)
    model, optimizer, loader, lr_scheduler = accelerator.prepare(transformer, optimizer, loader, lr_scheduler)
    unconditional = prompts([""]) if config.needs_unconditional else None
    compute_loss = LossFunction(args, config, family, model, transformer, unconditional)
    TrainedWeights(transformer).register(accelerator)
    if compute_loss.teacher is not None:
        accelerator.register_for_checkpointing(compute_loss.teacher)
    accelerator.init_trackers("twinflow", config=tracker_config(args))
    if checkpoint:
        accelerator.load_state(str(checkpoint))
        logger.info(f"resumed from {checkpoint}")

    health = TrainingHealth(optimizer.optimizer, accelerator.device)
    trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    position = first_step * step_samples + accelerator.process_index * args.train_batch_size
    step, is_step_start = first_step, True
    progress = tqdm(
        total=args.max_train_steps, initial=first_step, desc="Steps", disable=not accelerator.is_local_main_process
    )
    for batch in loader:
        if is_step_start and compute_loss.teacher is not None:
            compute_loss.teacher.update()
        with accelerator.accumulate(model), accelerator.autocast():
            positions = list(range(position, position + args.train_batch_size))
            captions = drop_prompts(batch["caption"], positions, args.proportion_empty_prompts, args.seed)
            latents = (
                batch["latents"]
                if args.cache_latents
                else encode_images(family, pipeline, accelerator, batch["pixels"])
            )
            result = compute_loss(latents.float(), prompts(captions), positions)
            accelerator.backward(result.loss)
            health.record_losses(result.per_sample, result.branches)
            if accelerator.sync_gradients:
                grad_norm = accelerator.clip_grad_norm_(trainable, args.max_grad_norm)
                health.guard_step(grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        position += micro_batch
        is_step_start = accelerator.sync_gradients
        if not accelerator.sync_gradients:
            continue
        step += 1
        progress.update()
        if step % args.logging_steps == 0:
            logs = {"loss": result.loss.item(), "grad_norm": float(grad_norm), "lr": lr_scheduler.get_last_lr()[0]}
            progress.set_postfix(logs)
            accelerator.log(logs | health.report(), step=step)
        if step % args.checkpointing_steps == 0:
            save_checkpoint(args, accelerator, step)
        if step % args.validation_steps == 0 or step == args.max_train_steps:
            validate(args, config, family, pipeline, accelerator, step)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_result(args, config, family, pipeline, compute_loss.teacher, step)
        logger.info(f"saved to {args.output_dir}")
    accelerator.end_training()


def main(input_args: list[str] | None = None) -> None:
    try:
        args = parse_args(input_args)
        config, family = check_arguments(args)
        train(args, config, family)
    except TwinFlowConfigError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
