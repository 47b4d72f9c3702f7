"""Save checkpoints during a run, and the result at its end."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
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
from ..hub.base_loras import parse_base_loras
from ..hub.files import CARD_NAME, LORA_NAME, seen_from
from ..hub.model_card import is_generated_card, rewrite_model_card, save_model_card
from ..hub.push import push_twinflow_model
from ..hub.repository import TwinFlowRepositoryConfig
from ..hub.sample_images import write_samples
from ..hub.saving import save_stock_lora, save_twinflow_lora, save_twinflow_model
from ..hub.stock_copy import scheduler_of
from ..hub.stock_pipelines import assemble
from ..methods.base import AveragedWeights
from ..models.target_folding import parts_to_fold
from ..sharding import gathered
from ..writing import disk_errors, finish_folder, merge_folder, start_folder, unfinished, write_folder
from . import deepspeed
from .arguments import LOCAL, TrainingArguments, save_options
from .base_model import base_name_of, weight_dtype_of
from .checkpoint_files import PREFIX, Manifest
from .distributed import checkpoint_state, uses_deepspeed
from .run_folder import RunFolder
from .validation_images import Columns, components_to_save

logger = get_logger(__name__)


def plain_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's options as plain values, without the TwinFlow options and local paths."""
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
    """Build the contents of `twinflow_config.json` for the weights after `step` steps.

    Args:
        options: options of the run and of its method.
        directory: directory that the file will be in. Defaults to `output_dir`.
    """
    base = base_name_of(args)
    libraries = (torch, diffusers, peft, diffusers_twinflow)
    return TwinFlowRepositoryConfig(
        train_type=args.train_type,
        family=family.name,
        base_model=_recorded_base(base, directory or args.output_dir),
        base_model_revision=args.revision,
        base_loras=[str(lora.seen_from(directory or args.output_dir)) for lora in parse_base_loras(args.base_loras)],
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
    """Return the name of the base for `twinflow_config.json` in `directory`.

    A relative path stays valid if both folders move together. An absolute path stays valid if only the result moves.
    """
    is_relative = Path(base).is_dir() and not Path(base).is_absolute()
    return seen_from(base, directory) if is_relative else base


def save_checkpoint(
    output_dir: str | Path,
    options: Mapping[str, Any],
    accelerator: Accelerator,
    model: torch.nn.Module,
    step: int,
    folder: RunFolder | None,
    sizes: Mapping[str, int],
    total_limit: int | None = None,
) -> None:
    """Write `checkpoint-{step}`. It appears only when it is complete. All processes must call it.

    Args:
        options: options of the run and of its method.
        model: the trained model as `accelerator.prepare` returned it.
        folder: the output folder, needed in the main process.
        sizes: numbers that must be the same in a resumed run.
        total_limit: maximum number of checkpoints to keep. `None` keeps all.

    Raises:
        DiskError: if the disk is full. Earlier checkpoints are not deleted.
    """
    directory = Path(output_dir) / f"{PREFIX}{step}"
    aside = unfinished(directory)
    if folder is not None:
        start_folder(directory)
    accelerator.wait_for_everyone()
    with disk_errors(directory), checkpoint_state(accelerator, model):
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
    """Save the trained model: a TwinFlow repository, or a stock LoRA or pipeline if TwinFlow is off.

    In `output_dir`, other files are kept. Any other directory is replaced. All processes must call it, because sharded
    weights are gathered. Only the main process writes.

    Args:
        options: options of the run and of its method.
        average: the averaged weights, or `None` if there are none.
        directory: directory to write to. Defaults to the run's `output_dir`.

    Raises:
        DiskError: if it cannot be written. The earlier contents are then unchanged.
    """
    publish = merge_folder if directory is None else write_folder
    directory = Path(directory or args.output_dir)
    saved = repository_config(args, options, config, family, step, directory)
    with components_to_save(family, pipeline, average, args.save_ema) as components:
        result = assemble(family, pipeline, components)
        model = family.network(result)
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

        with ExitStack() as whole:
            for denoiser in family.denoisers(result).values():
                wanted = partial(is_saved, parts_to_fold(denoiser)) if args.train_type == "lora" else None
                whole.enter_context(gathered(denoiser, is_main_process, wanted))
            if is_main_process:
                publish(directory, write_with_arguments)
        model.train(was_training)


def is_saved(to_fold: tuple[str, ...], name: str) -> bool:
    """Return whether a parameter is needed to save a LoRA.

    It belongs to the LoRA or the time conditioning, of the student or the teacher, or it has one of the prefixes
    `to_fold`.
    """
    return "lora_" in name or "time_conditioning" in name or name.startswith(to_fold)


def write_lora(
    args: TrainingArguments,
    config: TwinFlowConfig,
    saved: TwinFlowRepositoryConfig,
    pipeline: DiffusionPipeline,
    saved_names: Mapping[str, str],
    directory: Path,
) -> None:
    """Save the LoRA and the time conditioning, or a stock LoRA if TwinFlow is off."""
    family = family_of(pipeline)
    denoisers = family.denoisers(pipeline)
    dtype = None if args.upcast_before_saving else weight_dtype_of(args)
    if not config.twinflow_enabled:
        for name, denoiser in denoisers.items():
            save_stock_lora(directory, denoiser, family, saved.file_of(name, LORA_NAME), dtype=dtype)
        return
    save_twinflow_lora(directory, denoisers, saved, scheduler_of(pipeline), dtype=dtype, **saved_names)


def save_sample_grid(args: TrainingArguments, samples: Columns) -> None:
    """Save the images of the model card, given as columns by label, with the result."""
    merge_folder(args.output_dir, lambda aside: write_samples(aside, samples, args.validation_prompts or []))


def write_card(args: TrainingArguments, scores: Mapping[str, float] | None = None) -> None:
    """Write the model card of the result. A card that someone wrote or edited is not overwritten.

    Args:
        args: arguments of the run.
        scores: scores of the saved weights by name. Defaults to none.
    """
    path = Path(args.output_dir, CARD_NAME)
    if path.exists() and not is_generated_card(path):
        logger.warning(f"'{path}' was written or edited by hand, so it is not overwritten.")
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


def rewrite_card(args: TrainingArguments) -> None:
    """Write the generated model card again for the repository of these arguments. An edited card stays as it is."""
    if is_generated_card(Path(args.output_dir, CARD_NAME)):
        rewrite_model_card(
            args.output_dir,
            repository_id_of(args),
            base_model=args.hub_base_model,
            cache_dir=args.cache_dir,
            token=args.hub_token,
        )


def push_result(args: TrainingArguments) -> None:
    """Push the result to the Hub.

    Raises:
        TwinFlowPushError: if the push fails. The result stays in the output folder.
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
    """Return the Hub id of the result: `hub_model_id`, or the name of the output folder."""
    return args.hub_model_id or Path(args.output_dir).resolve().name
