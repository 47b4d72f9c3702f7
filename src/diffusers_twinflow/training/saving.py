"""What a run writes: checkpoints on the way, and at the end the repository that others load."""

import os
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

import diffusers_twinflow

from ..configuration import TwinFlowConfig
from ..families import Family, family_of
from ..hub.model_card import save_model_card
from ..hub.push import push_twinflow_lora
from ..hub.repository import TwinFlowRepositoryConfig, save_stock_lora, save_twinflow_lora, save_twinflow_model
from ..hub.samples import STEP_COUNTS, write_samples
from ..schedulers import TwinFlowScheduler
from .checkpoints import PREFIX, publish_directory, remove_old_checkpoints, unfinished_directory
from .distributed import gathered
from .validation import Validation, components_to_save

NOT_OF_THE_RESULT = {"config", "output_dir", "logging_dir", "cache_dir", "resume_from_checkpoint"}


def plain_arguments(args: Namespace) -> dict[str, Any]:
    """A run's arguments as plain values, without the TwinFlow options, tokens and places of this machine."""
    left_out = {*TwinFlowConfig.option_names(), *NOT_OF_THE_RESULT, "hub_token"}
    return {k: v for k, v in vars(args).items() if k not in left_out and isinstance(v, (int, float, str))}


def repository_config(args: Namespace, config: TwinFlowConfig, family: Family, step: int) -> TwinFlowRepositoryConfig:
    """What `twinflow_config.json` says of the weights after `step` steps."""
    base = args.pretrained_model_name_or_path
    libraries = (torch, diffusers, peft, diffusers_twinflow)
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
            "arguments": plain_arguments(args),
            "versions": {library.__name__: library.__version__ for library in libraries},
        },
    )


def save_checkpoint(args: Namespace, accelerator: Accelerator, step: int) -> None:
    """Write `checkpoint-{step}`, which is there only once it is complete; all processes call it."""
    directory = Path(args.output_dir) / f"{PREFIX}{step}"
    with unfinished_directory(directory, accelerator) as unfinished:
        accelerator.save_state(str(unfinished))
    if accelerator.is_main_process:
        remove_old_checkpoints(args.output_dir, args.checkpoints_total_limit)


def save_result(
    args: Namespace,
    config: TwinFlowConfig,
    family: Family,
    pipeline: DiffusionPipeline,
    average,
    step: int,
    validation: Validation,
    is_main_process: bool = True,
) -> None:
    """Write the trained model: a TwinFlow repository, or a stock LoRA or pipeline where TwinFlow is off.

    All processes call it, so that the main one can gather what is sharded, and it alone writes.

    Args:
        average: the EMA weights, where any are kept: a `training.teacher` object or an `EMAOfTrained`.
        validation: what the pictures of the model card come from.
    """
    saved = repository_config(args, config, family, step)
    with components_to_save(family, pipeline, average, args.save_ema) as components:
        result = family.assemble(pipeline, components)
        transformer = family.denoiser(result).eval()
        if args.train_type == "lora":
            write = partial(write_lora, args, saved, result, getattr(average, "saved_names", {}), validation)
        elif config.twinflow_enabled:
            write = partial(save_twinflow_model, pipeline=result, config=saved)
        else:
            write = result.save_pretrained
        with gathered(transformer, is_main_process, is_lora_part if args.train_type == "lora" else None):
            if is_main_process:
                publish_directory(args.output_dir, write)
    if is_main_process and args.train_type == "lora" and config.twinflow_enabled:
        publish_card(args)


def is_lora_part(name: str) -> bool:
    """Whether a parameter is one that a LoRA repository holds, the student's or the teacher's."""
    return "lora_" in name or "time_conditioning" in name


def write_lora(
    args: Namespace,
    saved: TwinFlowRepositoryConfig,
    pipeline: DiffusionPipeline,
    saved_names: dict[str, str],
    validation: Validation,
    directory: Path,
) -> None:
    """Write LoRA, time conditioning and samples, or a stock LoRA where TwinFlow is off."""
    family = family_of(pipeline)
    transformer = family.denoiser(pipeline)
    if not args.twinflow_enabled:
        save_stock_lora(directory, transformer, family)
        return
    scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
    save_twinflow_lora(directory, transformer, saved, scheduler, **(saved_names if args.save_ema else {}))
    if args.validation_prompts:
        write_samples(directory, validation.samples(STEP_COUNTS), args.validation_prompts)


def publish_card(args: Namespace) -> None:
    """Write the model card of a TwinFlow LoRA, and push the repository where that is asked for."""
    repository_id = args.hub_model_id or Path(args.output_dir).resolve().name
    base_model, prompts = args.hub_base_model, args.validation_prompts or []
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
