"""What a run writes: checkpoints on the way, and at the end the repository that others load."""

import os
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

import diffusers_twinflow

from ..configuration import TwinFlowConfig
from ..families import Family
from ..hub.model_card import save_model_card
from ..hub.push import push_twinflow_lora
from ..hub.repository import TwinFlowRepositoryConfig, save_stock_lora, save_twinflow_lora, save_twinflow_model
from ..hub.samples import save_samples
from ..pipelines import as_twinflow_pipeline
from ..schedulers import TwinFlowScheduler
from .checkpoints import PREFIX, publish_directory, remove_old_checkpoints, unfinished_directory

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
    args: Namespace, config: TwinFlowConfig, family: Family, pipeline: DiffusionPipeline, teacher, step: int
) -> None:
    """Write the trained model: a TwinFlow repository, or a stock LoRA or pipeline where TwinFlow is off."""
    if not config.twinflow_enabled:
        save_flow_matching(args, family, pipeline)
        return
    saved = repository_config(args, config, family, step)
    if args.train_type == "lora":
        save_lora(args, family, pipeline, teacher, saved)
        return
    weights = teacher.transformer if args.save_ema and hasattr(teacher, "transformer") else family.denoiser(pipeline)
    result = family.pipeline_class(**{**pipeline.components, family.component_name: weights})
    publish_directory(args.output_dir, lambda directory: save_twinflow_model(directory, result, saved))


def save_lora(
    args: Namespace, family: Family, pipeline: DiffusionPipeline, teacher, saved: TwinFlowRepositoryConfig
) -> None:
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
                save_samples(directory, shown, prompts, seed=args.seed, **family.size_options(args.resolution))

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


def save_flow_matching(args: Namespace, family: Family, pipeline: DiffusionPipeline) -> None:
    """Write a stock LoRA or a stock pipeline."""
    if args.train_type == "full":
        publish_directory(args.output_dir, pipeline.save_pretrained)
        return
    publish_directory(args.output_dir, lambda directory: save_stock_lora(directory, family.denoiser(pipeline), family))
