"""What a run writes: checkpoints on the way, and at the end the repository that others load."""

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from accelerate import Accelerator, PartialState
from accelerate.logging import get_logger
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

import diffusers_twinflow

from ..configuration import TwinFlowConfig
from ..families import Family, family_of
from ..hub.files import CARD_NAME
from ..hub.model_card import is_generated_card, save_model_card
from ..hub.push import push_twinflow_model
from ..hub.repository import TwinFlowRepositoryConfig, save_stock_lora, save_twinflow_lora, save_twinflow_model
from ..hub.samples import write_samples
from ..methods.base import AveragedWeights
from ..models.target_folding import parts_to_fold
from ..schedulers import TwinFlowScheduler
from ..sharding import gathered
from ..writing import disk_errors, finish_folder, merge_folder, start_folder, unfinished, write_folder
from . import deepspeed
from .arguments import LOCAL, TrainingArguments, save_options
from .base_model import base_name_of, weight_dtype_of
from .checkpoints import PREFIX, Manifest
from .distributed import uses_deepspeed
from .run_folder import RunFolder
from .validation import Columns, components_to_save

logger = get_logger(__name__)


def plain_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """A run's options as plain values, without the TwinFlow options and places on this machine."""
    left_out = {*TwinFlowConfig.option_names(), *LOCAL}
    return {k: v for k, v in options.items() if k not in left_out and isinstance(v, (int, float, str))}


def repository_config(
    args: TrainingArguments,
    options: Mapping[str, Any],
    config: TwinFlowConfig,
    family: Family,
    step: int,
    directory: str | Path | None = None,
) -> TwinFlowRepositoryConfig:
    """What `twinflow_config.json` says of the weights after `step` steps; it is in `output_dir` or `directory`.

    Args:
        options: the options of the run and of its method.
    """
    base = base_name_of(args)
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
            "arguments": plain_arguments(options),
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


def save_checkpoint(
    output_dir: str | Path,
    options: Mapping[str, Any],
    accelerator: Accelerator,
    step: int,
    folder: RunFolder | None,
    sizes: Mapping[str, int],
    total_limit: int | None = None,
) -> None:
    """Write `checkpoint-{step}`, which is there only once it is complete; all processes call it.

    Args:
        options: the options of the run and of its method.
        folder: the output folder, in the main process.
        sizes: numbers that a resumed run must share.
        total_limit: how many checkpoints to keep.

    Raises:
        DiskError: if the disk is full; the checkpoints that are there stay.
    """
    directory = Path(output_dir) / f"{PREFIX}{step}"
    aside = unfinished(directory)
    if folder is not None:
        start_folder(directory)
    accelerator.wait_for_everyone()
    with disk_errors(directory):
        try:
            accelerator.save_state(str(aside), **(deepspeed.SAVE_OPTIONS if uses_deepspeed(accelerator) else {}))
            accelerator.wait_for_everyone()
            if folder is not None:
                Manifest(folder.run_id, step, dict(options), dict(sizes)).save(aside)
        except Exception:
            if folder is not None:
                shutil.rmtree(aside, ignore_errors=True)
            raise
    if folder is not None:
        finish_folder(directory)
        folder.remove_old_checkpoints(total_limit)


def save_result(
    args: TrainingArguments,
    options: Mapping[str, Any],
    config: TwinFlowConfig,
    family: Family,
    pipeline: DiffusionPipeline,
    average: AveragedWeights | None,
    step: int,
    *,
    directory: str | Path | None = None,
) -> None:
    """Write the trained model: a TwinFlow repository, or a stock LoRA or pipeline if TwinFlow is off.

    The output folder gets the model and the run's arguments beside what it holds; any other directory is replaced. All
    processes call it, so that the main one, which alone writes, can gather what is sharded.

    Args:
        options: the options of the run and of its method.
        average: the averaged weights, if any are kept.
        directory: where to; defaults to the run's `output_dir`.

    Raises:
        DiskError: if it cannot be written; what was there before stays.
    """
    publish = merge_folder if directory is None else write_folder
    directory = Path(directory or args.output_dir)
    saved = repository_config(args, options, config, family, step, directory)
    with components_to_save(family, pipeline, average, args.save_ema) as components:
        result = family.assemble(pipeline, components)
        model = family.denoiser(result)
        was_training = model.training
        model.eval()
        write: Callable[[Path], Any]
        if args.train_type == "lora":
            names = average.saved_names if args.save_ema and average is not None else {}
            write = partial(write_lora, args, config, saved, result, names)
        elif config.twinflow_enabled:
            write = partial(save_twinflow_model, pipeline=result, config=saved)
        else:
            write = result.save_pretrained
        is_main_process = PartialState().is_main_process

        def write_with_arguments(aside: Path) -> None:
            write(aside)
            save_options(options, aside)

        to_fold = parts_to_fold(model)
        wanted = (lambda name: is_lora_part(name) or name.startswith(to_fold)) if args.train_type == "lora" else None
        with gathered(model, is_main_process, wanted):
            if is_main_process:
                publish(directory, write_with_arguments)
        model.train(was_training)


def is_lora_part(name: str) -> bool:
    """Whether a parameter is one that a LoRA repository holds, the student's or the teacher's."""
    return "lora_" in name or "time_conditioning" in name


def write_lora(
    args: TrainingArguments,
    config: TwinFlowConfig,
    saved: TwinFlowRepositoryConfig,
    pipeline: DiffusionPipeline,
    saved_names: Mapping[str, str],
    directory: Path,
) -> None:
    """Write LoRA and time conditioning, or a stock LoRA if TwinFlow is off."""
    family = family_of(pipeline)
    transformer = family.denoiser(pipeline)
    dtype = None if args.upcast_before_saving else weight_dtype_of(args)
    if not config.twinflow_enabled:
        save_stock_lora(directory, transformer, family, dtype=dtype)
        return
    scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
    save_twinflow_lora(directory, transformer, saved, scheduler, dtype=dtype, **saved_names)


def save_sample_grid(args: TrainingArguments, samples: Columns) -> None:
    """Write the pictures of the model card, in columns by label, beside the result."""
    merge_folder(args.output_dir, lambda aside: write_samples(aside, samples, args.validation_prompts or []))


def write_card(args: TrainingArguments, scores: Mapping[str, float] | None = None) -> None:
    """Write the model card of what was distilled. A card that somebody wrote or edited stays.

    Args:
        scores: of the weights in the repository, by name.
    """
    path = Path(args.output_dir, CARD_NAME)
    if path.exists() and not is_generated_card(path):
        logger.warning(f"'{path}' is not a card that training wrote: it stays as it is, and no new card is written.")
        return
    save_model_card(
        args.output_dir,
        repository_id_of(args),
        prompts=args.validation_prompts or [],
        scores=scores,
        base_model=args.hub_base_model,
        cache_dir=args.cache_dir,
        token=args.hub_token,
    )


def push_result(args: TrainingArguments) -> None:
    """Push the repository to the Hub.

    Raises:
        TwinFlowPushError: if the Hub refuses; the result stays in the run's directory.
    """
    commit = push_twinflow_model(
        args.output_dir,
        repository_id_of(args),
        token=args.hub_token,
        private=args.hub_private_repo,
        revision=args.hub_revision,
        base_model=args.hub_base_model,
    )
    logger.info(f"pushed to {getattr(commit, 'commit_url', commit)}")


def repository_id_of(args: TrainingArguments) -> str:
    """The Hub id of the result: the given one, or the output folder's name."""
    return args.hub_model_id or Path(args.output_dir).resolve().name
