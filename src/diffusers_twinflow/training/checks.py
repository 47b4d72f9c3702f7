"""Check the options of a run before a model is loaded."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..configuration import FlowMatchingConfig, TwinFlowConfig, TwinFlowConfigError
from ..families import Family, family_of
from ..families.video import check_draws_videos
from ..hub.base_loras import parse_base_loras
from ..options import options_of, unused_note
from . import deepspeed
from .arguments import TrainingArguments
from .base_model import has_flow_matching_scheduler, load_model_index
from .limits import check_memory, check_output_dir
from .optimizer import check_optimizer
from .quantization import check_quantization
from .scoring import check_scores
from .tracking import check_trackers


def check_arguments(args: TrainingArguments, config: TwinFlowConfig) -> None:
    """Check the options of a run without looking at its base.

    Raises:
        TwinFlowConfigError: if options contradict each other, or this machine cannot provide what they need.
    """
    check_output_dir(args.output_dir)
    check_memory(args)
    check_push(args, config)
    if args.mixed_precision is not None:
        deepspeed.check_precision(args.mixed_precision)
    check_quantization(args.quantize_base, args.train_type)
    check_base_loras(args)
    check_optimizer(args)
    check_scores(args, config)
    check_trackers(args.report_to, args.hub_token)


def unused_arguments(args: TrainingArguments, method_options: Mapping[str, Any]) -> str | None:
    """Return a line that names the options that are set but not used in training; `None` if all are used.

    Args:
        method_options: options of the method, by name.
    """
    values = {each.name: getattr(args, each.name) for each in options_of(TrainingArguments)} | dict(method_options)
    return unused_note(options_of(TrainingArguments, FlowMatchingConfig, TwinFlowConfig), values)


def check_base(args: TrainingArguments, config: TwinFlowConfig, use_ema: bool) -> Family:
    """Check the base from its small files, before its weights are loaded.

    Returns:
        The family of the base.

    Raises:
        TwinFlowConfigError: if the base does not exist, or the run cannot train it.
    """
    if not args.pretrained_model_name_or_path:
        raise TwinFlowConfigError("`pretrained_model_name_or_path` is missing: give it as an argument or in `config`.")
    base: dict[str, Any] = {
        "name_or_path": args.pretrained_model_name_or_path,
        "revision": args.revision,
        "cache_dir": args.cache_dir,
    }
    index = load_model_index(**base)
    config.check_training(flow_matching=has_flow_matching_scheduler(index=index, **base), use_ema=use_ema)
    family = family_of(index["_class_name"])
    check_family(args, family)
    return family


def check_family(args: TrainingArguments, family: Family, *, is_encoded: bool = False) -> None:
    """Check that the options fit the model family.

    Args:
        is_encoded: whether the data already has conditions, which contain the reference images.

    Raises:
        TwinFlowConfigError: if they do not.
    """
    if not is_encoded:
        family.check_trains()
    family.load_options(args.denoisers)
    check_reference(args, family, is_encoded=is_encoded)
    check_draws_videos(family, args.num_frames)


def check_denoisers(args: TrainingArguments, denoisers: Collection[str]) -> None:
    """Check that the options fit the components that a loaded base denoises with.

    Args:
        denoisers: names of the components that the base denoises with.

    Raises:
        TwinFlowConfigError: if they do not.
    """
    if args.denoisers is not None and set(args.denoisers) != set(denoisers):
        raise TwinFlowConfigError(
            f"denoisers={' '.join(args.denoisers)} does not fit the base, which denoises with {' and '.join(denoisers)}. "
            "Leave `denoisers` out, or load the base with other components."
        )
    if args.cuda_graphs and len(denoisers) > 1:
        raise TwinFlowConfigError(
            f"`cuda_graphs` cannot be used with {' and '.join(denoisers)}, because the samples of each pass are divided "
            "between them. Leave it out."
        )


def check_reference(args: TrainingArguments, family: Family, *, is_encoded: bool = False) -> None:
    """Check that a reference image is given if, and only if, the model edits images.

    Raises:
        TwinFlowConfigError: if an image is missing or not allowed.
    """
    given: Mapping[str, str | None] = {} if is_encoded else {"reference_image_column": args.reference_image_column}
    if args.validation_prompts:
        given = {**given, "validation_image": args.validation_image}
    for name, value in given.items():
        if family.takes_reference_image and not value:
            raise TwinFlowConfigError(f"`{name}` is missing: {family.pipeline_class.__name__} needs an image to edit.")
        if value and not family.takes_reference_image:
            raise TwinFlowConfigError(
                f"{name}={value} cannot be used with {family.pipeline_class.__name__}, which does not edit images. Leave "
                "it out."
            )


def check_base_loras(args: TrainingArguments) -> None:
    """Check that the LoRAs of the base exist and can be merged. Their files are downloaded.

    Raises:
        TwinFlowConfigError: if they cannot.
    """
    loras = parse_base_loras(args.base_loras)
    if loras and args.quantize_base is not None:
        raise TwinFlowConfigError(
            f"base_loras={loras[0]} cannot be merged into a quantized base: leave out `quantize_base`, or save a pipeline "
            "with the merged LoRA and use it as the base."
        )
    for lora in loras:
        lora.locate(cache_dir=args.cache_dir)


def check_push(args: TrainingArguments, config: TwinFlowConfig) -> None:
    """Check that the result can be pushed to the Hub with these options.

    Raises:
        TwinFlowConfigError: if it cannot.
    """
    if not args.push_to_hub:
        return
    if not config.twinflow_enabled:
        raise TwinFlowConfigError("`push_to_hub` works only with TwinFlow: set `twinflow_enabled`.")
    if not args.hub_model_id:
        raise TwinFlowConfigError("`push_to_hub` needs `hub_model_id`, the repository's name such as me/my-lora.")
    base = args.pretrained_model_name_or_path
    if base and Path(base).is_dir() and not args.hub_base_model:
        raise TwinFlowConfigError(
            f"`push_to_hub` needs the Hub id of the base, but pretrained_model_name_or_path='{base}' is a folder on this "
            "machine. Give the Hub id as `hub_base_model`."
        )
    local = [lora for lora in parse_base_loras(args.base_loras) if lora.is_local]
    if local and args.train_type == "lora":
        raise TwinFlowConfigError(
            f"`push_to_hub` needs the Hub id of the LoRA in the base, but base_loras={local[0]} is on this machine. Push "
            "it first, and give its Hub id."
        )
