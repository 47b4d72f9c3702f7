"""Check the base pipeline, load it frozen, and add the weights that are trained."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig

from ..configuration import TwinFlowConfigError
from ..families import Family, is_flow_matching
from ..hub.base_loading import load_base
from ..hub.base_loras import merge_base_loras, parse_base_loras
from ..hub.files import INDEX_NAME, LOCATION, MODULAR_INDEX_NAME, locate_repository, read_pipeline_index
from ..methods import Method
from ..models import enable_twinflow
from ..schedulers import TwinFlowScheduler
from .arguments import TrainingArguments
from .quantization import quantization_config

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ALL_LINEAR = "all-linear"
"""PEFT's name for every linear layer."""


def load_model_index(name_or_path: str, **hub_options: Any) -> dict[str, Any]:
    """Read the index of a stock or modular pipeline, in the form of a `model_index.json`.

    Args:
        name_or_path: Hub id or local directory.
        hub_options: `revision` and `cache_dir`, as in diffusers.

    Raises:
        TwinFlowConfigError: if the file does not exist or cannot be downloaded. The message says why.
    """
    repository = locate_repository(name_or_path, patterns=[INDEX_NAME, MODULAR_INDEX_NAME], **hub_options)
    index = read_pipeline_index(repository.directory)
    if index is None:
        raise TwinFlowConfigError(
            f"pretrained_model_name_or_path='{name_or_path}' is not a diffusers pipeline. Give a Hub id or a directory "
            f"with a {INDEX_NAME} or a {MODULAR_INDEX_NAME}."
        )
    return index


def has_flow_matching_scheduler(name_or_path: str, index: dict[str, Any], **hub_options: Any) -> bool:
    """Return whether the pipeline's scheduler shows that the model predicts a flow-matching velocity."""
    class_name = (index.get("scheduler") or [None, None])[1]
    if class_name is None:
        raise TwinFlowConfigError(f"'{name_or_path}' has no scheduler. Give a base with one.")
    scheduler_class = getattr(diffusers, class_name, TwinFlowScheduler)
    spec = index.get("_specs", {}).get("scheduler", {})
    if spec.get(LOCATION) is not None and not Path(name_or_path, "scheduler").is_dir():
        name_or_path, hub_options["revision"] = spec[LOCATION], spec.get("revision")
    config: Any = scheduler_class.load_config(name_or_path, subfolder="scheduler", **hub_options)
    return is_flow_matching(class_name, config)


def weight_dtype_of(args: TrainingArguments) -> torch.dtype:
    """Return the dtype of frozen weights. It is float32 if `mixed_precision` is not resolved."""
    return DTYPES[args.mixed_precision or "no"]


def base_name_of(args: TrainingArguments) -> str:
    """Return the Hub id or the folder of the base.

    Raises:
        TwinFlowConfigError: if the arguments do not name a base.
    """
    if not args.pretrained_model_name_or_path:
        raise TwinFlowConfigError(
            "`pretrained_model_name_or_path` is missing, but the result must name its base. Give the Hub id or the folder "
            "of the base."
        )
    return args.pretrained_model_name_or_path


def load_frozen_pipeline(family: Family, args: TrainingArguments) -> DiffusionPipeline:
    """Load the base with all weights frozen, in the dtype of `mixed_precision`, which must be resolved.

    The LoRAs in `base_loras` are merged into it.

    With `train_type` "full", the trained components are in float32. With a LoRA, they may be quantized.
    """
    weight_dtype, wanted = weight_dtype_of(args), family.load_options(args.denoisers)
    index = load_model_index(base_name_of(args), revision=args.revision, cache_dir=args.cache_dir) | wanted
    denoisers = [name for name in family.denoiser_names if index.get(name) not in (None, [None, None])]
    full_precision = dict.fromkeys(denoisers, torch.float32) if args.train_type == "full" else {}
    options: dict[str, Any] = {"revision": args.revision, "variant": args.variant, "cache_dir": args.cache_dir}
    options |= wanted
    if args.quantize_base is not None:
        config = quantization_config(args.quantize_base, denoisers, weight_dtype)
        options["quantization_config"] = config
    dtype = {"default": weight_dtype, **full_precision}
    pipeline = load_base(family, base_name_of(args), dtype=dtype, **options)
    merge_base_loras(pipeline, parse_base_loras(args.base_loras), cache_dir=args.cache_dir)
    return freeze(pipeline)


def freeze(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Freeze all weights of a pipeline and return the pipeline."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    return pipeline


def prepare_full(transformer: ModelMixin, method: Method, family: Family) -> None:
    """Make all weights trainable, and add the time conditioning if the method uses it."""
    if method.config.twinflow_enabled:
        enable_twinflow(transformer, family.transformer_class)
    transformer.requires_grad_(True).train()


def prepare_lora(
    transformer: ModelMixin,
    method: Method,
    family: Family,
    configure: Callable[[ModelMixin], LoraConfig],
) -> None:
    """Add the LoRA, the time conditioning and the teacher's copies of both, in float32.

    Args:
        configure: builds PEFT's configuration for the transformer, which already has its time conditioning.
    """
    uses_twinflow = method.config.twinflow_enabled
    if uses_twinflow:
        enable_twinflow(transformer, family.transformer_class)
    if not isinstance(transformer, PeftAdapterMixin):
        raise TwinFlowConfigError(
            f"train_type=lora with twinflow_enabled=false is not possible, because diffusers does not support LoRA for a "
            f"{type(transformer).__name__}. Train with train_type=full, or with twinflow_enabled=true."
        )
    peft_config = configure(transformer)
    try:
        transformer.add_adapter(peft_config)
    except ValueError as error:
        layers = " ".join(sorted(peft_config.target_modules or []))
        raise TwinFlowConfigError(
            f"lora_layers={layers} is not valid: a LoRA cannot be added to these layers ({error}). Name linear or "
            f"convolution layers, or use `lora_layers` {ALL_LINEAR}."
        ) from error
    if uses_twinflow:
        transformer.time_conditioning.requires_grad_(True)
    cast_training_params(transformer, torch.float32)
    method.add_teacher(transformer, peft_config)
    transformer.train()


def lora_config(transformer: ModelMixin, family: Family, args: TrainingArguments) -> LoraConfig:
    """Build PEFT's configuration of the LoRA from the arguments."""
    return LoraConfig(
        r=args.rank,
        lora_alpha=args.lora_alpha or args.rank,  # type: ignore[arg-type]  # PEFT accepts fractions too
        lora_dropout=args.lora_dropout,
        init_lora_weights="gaussian",
        target_modules=lora_targets(transformer, family, args.lora_layers),
    )


def lora_targets(transformer: ModelMixin, family: Family, lora_layers: Sequence[str] | None) -> list[str]:
    """Return the layer names for PEFT. The time conditioning's layers are left out, because all its weights train."""
    if not lora_layers:
        return family.lora_targets(transformer)
    if list(lora_layers) != [ALL_LINEAR]:
        check_layer_names(transformer, lora_layers)
        return list(lora_layers)
    return [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("time_conditioning.")
    ]


def check_layer_names(transformer: torch.nn.Module, lora_layers: Sequence[str]) -> None:
    """Check that every name in `lora_layers` matches a layer. PEFT would skip a wrong name if another one matches.

    Raises:
        TwinFlowConfigError: if a name is neither a layer's name nor the end of one.
    """
    modules = [name for name, _ in transformer.named_modules()]
    ends = {".".join(name.split(".")[start:]) for name in modules for start in range(name.count(".") + 1)}
    for name in lora_layers:
        if name in ends:
            continue
        nearest = difflib.get_close_matches(name, sorted(ends), n=3, cutoff=0.4)
        suggestion = f" Close names are {', '.join(nearest)}." if nearest else ""
        raise TwinFlowConfigError(
            f"lora_layers={name}: {type(transformer).__name__} has no layer of that name.{suggestion} Use "
            f"`lora_layers` {ALL_LINEAR} for every linear layer."
        )
