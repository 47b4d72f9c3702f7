"""What a run writes: checkpoints on the way, and at the end the repository that others load."""

import os
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from accelerate import Accelerator, PartialState
from diffusers import DiffusionPipeline

import diffusers_twinflow

from ..configuration import TwinFlowConfig
from ..families import Family, family_of
from ..hub.model_card import save_model_card
from ..hub.push import push_twinflow_model
from ..hub.repository import TwinFlowRepositoryConfig, save_stock_lora, save_twinflow_lora, save_twinflow_model
from ..hub.samples import write_samples
from ..schedulers import TwinFlowScheduler
from . import deepspeed
from .base_model import DTYPES
from .checkpoints import PREFIX, publish_directory, remove_old_checkpoints, unfinished_directory
from .distributed import gathered, uses_deepspeed
from .validation import Columns, components_to_save

NOT_OF_THE_RESULT = {
    "cache_dir", "cache_directory", "config", "frechet_model", "instance_data_dir", "judge", "logging_dir", "output_dir",
    "prompt_score_model", "prompts_file", "resume_from_checkpoint",
}  # fmt: skip


def plain_arguments(args: Namespace) -> dict[str, Any]:
    """A run's arguments as plain values, without the TwinFlow options, tokens and places of this machine."""
    left_out = {*TwinFlowConfig.option_names(), *NOT_OF_THE_RESULT, "hub_token"}
    return {k: v for k, v in vars(args).items() if k not in left_out and isinstance(v, (int, float, str))}


def repository_config(
    args: Namespace, config: TwinFlowConfig, family: Family, step: int, directory: str | Path | None = None
) -> TwinFlowRepositoryConfig:
    """What `twinflow_config.json` says of the weights after `step` steps; it lies in `output_dir` or `directory`."""
    base = args.pretrained_model_name_or_path
    libraries = (torch, diffusers, peft, diffusers_twinflow)
    return TwinFlowRepositoryConfig(
        train_type=args.train_type,
        family=family.name,
        base_model=_recorded_base(base, directory or args.output_dir),
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


def _recorded_base(base: str, directory: str | Path) -> str:
    """What `twinflow_config.json` in `directory` calls the base.

    A base that was given as a relative path is found again if both folders move together, one that was given as an
    absolute path if the result alone moves.
    """
    is_relative = Path(base).is_dir() and not Path(base).is_absolute()
    return os.path.relpath(base, directory) if is_relative else base


def save_checkpoint(args: Namespace, accelerator: Accelerator, step: int) -> None:
    """Write `checkpoint-{step}`, which is there only once it is complete; all processes call it."""
    directory = Path(args.output_dir) / f"{PREFIX}{step}"
    with unfinished_directory(directory, accelerator) as unfinished:
        accelerator.save_state(str(unfinished), **(deepspeed.SAVE_OPTIONS if uses_deepspeed(accelerator) else {}))
    if accelerator.is_main_process:
        remove_old_checkpoints(args.output_dir, args.checkpoints_total_limit)


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """Go back to what `save_checkpoint` wrote; all processes call it."""
    accelerator.load_state(str(checkpoint), **(deepspeed.LOAD_OPTIONS if uses_deepspeed(accelerator) else {}))


def save_result(
    args: Namespace,
    config: TwinFlowConfig,
    family: Family,
    pipeline: DiffusionPipeline,
    average,
    step: int,
    *,
    directory: str | Path | None = None,
    samples: Columns | None = None,
) -> None:
    """Write the trained model: a TwinFlow repository, or a stock LoRA or pipeline where TwinFlow is off.

    All processes call it, so that the main one, which alone writes, can gather what is sharded.

    Args:
        average: the EMA weights, where any are kept: a `training.teacher` object or an `EMAOfTrained`.
        directory: where to; defaults to the run's `output_dir`.
        samples: pictures for the model card, in columns by label.
    """
    directory = Path(directory or args.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    saved = repository_config(args, config, family, step, directory)
    with components_to_save(family, pipeline, average, args.save_ema) as components:
        result = family.assemble(pipeline, components)
        model = family.denoiser(result)
        was_training = model.training
        model.eval()
        if args.train_type == "lora":
            names = getattr(average, "saved_names", {}) if args.save_ema else {}
            write = partial(write_lora, args, saved, result, names, samples)
        elif config.twinflow_enabled:
            write = partial(write_model, args, saved, result, samples)
        else:
            write = result.save_pretrained
        is_main_process = PartialState().is_main_process
        with gathered(model, is_main_process, is_lora_part if args.train_type == "lora" else None):
            if is_main_process:
                publish_directory(directory, write)
        model.train(was_training)


def is_lora_part(name: str) -> bool:
    """Whether a parameter is one that a LoRA repository holds, the student's or the teacher's."""
    return "lora_" in name or "time_conditioning" in name


def write_lora(
    args: Namespace,
    saved: TwinFlowRepositoryConfig,
    pipeline: DiffusionPipeline,
    saved_names: dict[str, str],
    samples: Columns | None,
    directory: Path,
) -> None:
    """Write LoRA, time conditioning and samples, or a stock LoRA where TwinFlow is off."""
    family = family_of(pipeline)
    transformer = family.denoiser(pipeline)
    dtype = None if args.upcast_before_saving else DTYPES[args.mixed_precision]
    if not args.twinflow_enabled:
        save_stock_lora(directory, transformer, family, dtype=dtype)
        return
    scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
    save_twinflow_lora(directory, transformer, saved, scheduler, dtype=dtype, **saved_names)
    if samples:
        write_samples(directory, samples, args.validation_prompts)


def write_model(
    args: Namespace,
    saved: TwinFlowRepositoryConfig,
    pipeline: DiffusionPipeline,
    samples: Columns | None,
    directory: Path,
) -> None:
    """Write a whole distilled model and its samples."""
    save_twinflow_model(directory, pipeline, saved)
    if samples:
        write_samples(directory, samples, args.validation_prompts)


def publish_card(args: Namespace, scores: Mapping[str, float] | None = None) -> None:
    """Write the model card of what was distilled, and push the repository where that is asked for.

    Args:
        scores: of the weights in the repository, by name.

    Raises:
        TwinFlowPushError: if the Hub refuses; the result stays in the run's directory.
    """
    repository_id = args.hub_model_id or Path(args.output_dir).resolve().name
    base_model, prompts, token = args.hub_base_model, args.validation_prompts or [], args.hub_token
    options = {"prompts": prompts, "base_model": base_model, "cache_dir": args.cache_dir, "token": token}
    save_model_card(args.output_dir, repository_id, scores=scores, **options)
    if not args.push_to_hub:
        return
    where = {"private": args.hub_private_repo, "revision": args.hub_revision}
    push_twinflow_model(args.output_dir, repository_id, token=token, base_model=base_model, **where)
