"""A user's TwinFlow recipe for SimpleTuner, in the names of our training script."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from ..configuration import TwinFlowConfig, TwinFlowConfigError, check_option_name

FAMILY_BASES = {
    "sd3": "stabilityai/stable-diffusion-3.5-medium",
    "flux": "black-forest-labs/FLUX.1-dev",
    "qwen_image": "Qwen/Qwen-Image",
    "z_image": "Tongyi-MAI/Z-Image",
    "sana": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd1x": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
FAMILY_NAMES = {"z-image": "z_image", "qwen-image": "qwen_image", "stable_diffusion_3": "sd3"}

RENAMED = {
    "lora_rank": "rank",
    "learning_rate": "learning_rate",
    "pretrained_model_name_or_path": "pretrained_model_name_or_path",
    "revision": "revision",
    "variant": "variant",
    "base_model_revision": "revision",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_ema": "use_ema",
    "ema_decay": "twinflow_ema_decay",
    "output_dir": "output_dir",
    "logging_dir": "logging_dir",
    "cache_dir": "cache_dir",
    "seed": "seed",
    "train_batch_size": "train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "max_train_steps": "max_train_steps",
    "max_grad_norm": "max_grad_norm",
    "mixed_precision": "mixed_precision",
    "allow_tf32": "allow_tf32",
    "lr_scheduler": "lr_scheduler",
    "lr_warmup_steps": "lr_warmup_steps",
    "adam_beta1": "adam_beta1",
    "adam_beta2": "adam_beta2",
    "adam_weight_decay": "adam_weight_decay",
    "adam_epsilon": "adam_epsilon",
    "checkpointing_steps": "checkpointing_steps",
    "checkpoint_step_interval": "checkpointing_steps",
    "checkpoints_total_limit": "checkpoints_total_limit",
    "resume_from_checkpoint": "resume_from_checkpoint",
    "validation_steps": "validation_steps",
    "validation_step_interval": "validation_steps",
    "num_validation_images": "num_validation_images",
    "report_to": "report_to",
    "caption_dropout_probability": "proportion_empty_prompts",
    "tokenizer_max_length": "max_sequence_length",
    "dataset_name": "dataset_name",
    "instance_data_dir": "dataset_name",
    "push_to_hub": "push_to_hub",
    "hub_model_id": "hub_model_id",
    **{name: name for name in TwinFlowConfig.option_names()},
}
WITHOUT_EFFECT = {
    "aspect_bucket_rounding": "images are cropped to the resolution",
    "attention_mechanism": "the attention of diffusers is used",
    "base_model_precision": "the base is kept in the training dtype",
    "cache_file_suffix": "nothing is cached on disk",
    "compress_disk_cache": "nothing is cached on disk",
    "data_backend_config": "give --dataset_name",
    "disable_benchmark": "there is no benchmark at the start",
    "disable_bucket_pruning": "there are no buckets",
    "diff2flow_loss": "diff2flow_enabled decides",
    "ema_device": "the teacher is on the training device",
    "ema_update_interval": "the teacher is updated every step",
    "flow_schedule_shift": "twinflow_time_alpha and twinflow_time_beta shape the times",
    "fuse_qkv_projections": "projections are not fused",
    "grad_clip_method": "gradients are clipped by their norm",
    "metadata_update_interval": "nothing is cached on disk",
    "minimum_image_size": "filter the data set before",
    "model_flavour": "the base is named by its Hub id",
    "offload_during_startup": "there is no offloading",
    "num_eval_images": "nothing is evaluated",
    "optimizer": "the optimizer is AdamW",
    "prediction_type": "it is read from the base",
    "quantize_via": "the base is kept in the training dtype",
    "resolution_type": "images are cropped to the resolution",
    "scheduled_sampling_prob_end": "scheduled sampling is off",
    "scheduled_sampling_prob_start": "scheduled sampling is off",
    "scheduled_sampling_probability": "scheduled sampling is off",
    "scheduled_sampling_ramp_steps": "scheduled sampling is off",
    "scheduled_sampling_sampler": "scheduled sampling is off",
    "scheduled_sampling_strategy": "scheduled sampling is off",
    "skip_file_discovery": "the data set is read whole",
    "tracker_project_name": "runs are called twinflow",
    "tracker_run_name": "runs are called twinflow",
    "vae_batch_size": "latents are encoded in batches of the training",
    "validation_disable_unconditional": "only prompts of yours are drawn",
    "validation_guidance_rescale": "there is no guidance to rescale",
    "validation_negative_prompt": "there is no guidance to push away from it",
    "validation_prompt_library": "only prompts of yours are drawn",
    "validation_resolution": "validation draws at the base's own size",
    "validation_seed": "validation is seeded with --seed",
}
OFF = (None, False, "", 0, "none", "null", "false", "0")


def translate_recipe(options: dict[str, Any], known: Iterable[str] = ()) -> dict[str, Any]:
    """Options of our training script that say what a TwinFlow recipe for SimpleTuner says.

    Keys may carry leading dashes. What has no meaning here is left out: `ignored_options` names it and says why.

    Args:
        options: the recipe's JSON object.
        known: options of our script that stay as they are, so that its own recipes come out unchanged.

    Raises:
        TwinFlowConfigError: for a key that is unknown, with the nearest one that is known, for one given twice, and for
            one that contradicts TwinFlow.
    """
    given, known = _without_dashes(options), set(known)
    translated: dict[str, Any] = {}
    for name, value in given.items():
        if name in CONTRADICTIONS:
            if given.get("twinflow_enabled"):
                CONTRADICTIONS[name](value)
            continue
        if name in TRANSLATED:
            part = TRANSLATED[name](value)
        elif name in WITHOUT_EFFECT:
            continue
        elif name in known:
            part = {name: value}
        else:
            check_option_name(name, sorted({*RENAMED, *TRANSLATED, *CONTRADICTIONS, *WITHOUT_EFFECT, *known}))
            part = {RENAMED[name]: value}
        for target, new in part.items():
            if translated.setdefault(target, new) != new:
                raise TwinFlowConfigError(f"'{name}' says {target}={new!r}, another option {translated[target]!r}.")
    family = translated.pop("model_family", None)
    if family and not translated.get("pretrained_model_name_or_path"):
        translated["pretrained_model_name_or_path"] = FAMILY_BASES[family]
    steps = translated.pop("validation_num_inference_steps", None)
    if steps and given.get("twinflow_enabled"):
        translated.setdefault("twinflow_target_step_count", steps)
    return translated


def ignored_options(options: dict[str, Any]) -> dict[str, str]:
    """What `translate_recipe` leaves out of a recipe, with the reason, by name."""
    return {name: WITHOUT_EFFECT[name] for name in _without_dashes(options) if name in WITHOUT_EFFECT}


def _without_dashes(options: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in options.items():
        name = key.lstrip("-").replace("-", "_")
        if name in given:
            raise TwinFlowConfigError(f"'{name}' is given twice: keep one.")
        given[name] = value
    return given


def _model_family(value: Any) -> dict[str, Any]:
    name = FAMILY_NAMES.get(value, value) if isinstance(value, str) else None
    if name not in FAMILY_BASES:
        raise TwinFlowConfigError(f"model_family={value!r} is not supported: use one of {', '.join(FAMILY_BASES)}.")
    return {"model_family": name}


def _model_type(value: Any) -> dict[str, Any]:
    if value not in ("lora", "full"):
        raise TwinFlowConfigError(f"model_type={value!r} is not supported: it must be 'lora' or 'full'.")
    return {"train_type": value}


def _must_be_off(name: str, remedy: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if value not in OFF:
            raise TwinFlowConfigError(f"{name}={value!r} contradicts TwinFlow: {remedy}.")
        return {}

    return check


def _not_supported(name: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if value not in OFF:
            raise TwinFlowConfigError(f"{name}={value!r} is not supported: leave it out.")
        return {}

    return check


def _guidance(name: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            value = _number(name, value)
        if value is not None and value != 0:
            raise TwinFlowConfigError(
                f"{name}={value!r} contradicts TwinFlow, whose weights hold the guidance: set it to 0.0, and "
                "twinflow_enhanced_ratio for its strength."
            )
        return {}

    return check


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise TwinFlowConfigError(f"{name}={value!r} must be a number.")
    return number


def _validation_steps(value: Any) -> dict[str, Any]:
    number = _number("validation_num_inference_steps", value)
    if number < 1 or number != int(number):
        raise TwinFlowConfigError(f"validation_num_inference_steps={value!r} must be a whole number of 1 or more.")
    return {"validation_num_inference_steps": int(number)}


def _resolution(value: Any) -> dict[str, Any]:
    number = _number("resolution", value)
    if number < 16 or number != int(number):
        raise TwinFlowConfigError(f"resolution={value!r} must be a whole number of pixels, such as 1024.")
    return {"resolution": int(number)}


def _lora_type(value: Any) -> dict[str, Any]:
    if value not in (None, "standard"):
        raise TwinFlowConfigError(f"lora_type={value!r} is not supported: a TwinFlow LoRA is 'standard'.")
    return {}


def _validation_prompt(value: Any) -> dict[str, Any]:
    prompts = value if isinstance(value, list) else [value]
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise TwinFlowConfigError(f"validation_prompt={value!r} must be a text.")
    return {"validation_prompts": prompts}


def _epochs(value: Any) -> dict[str, Any]:
    if value not in OFF:
        raise TwinFlowConfigError(f"num_train_epochs={value!r} is not supported: give max_train_steps.")
    return {}


SCHEDULED_SAMPLING = "scheduled sampling must be off"
CONTRADICTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "distillation_method": _must_be_off("distillation_method", "it is a distillation of its own; leave it null"),
    "guidance_scale": _guidance("guidance_scale"),
    "scheduled_sampling": _must_be_off("scheduled_sampling", SCHEDULED_SAMPLING),
    "scheduled_sampling_max_step_offset": _must_be_off("scheduled_sampling_max_step_offset", SCHEDULED_SAMPLING),
    "scheduled_sampling_reflexflow": _must_be_off("scheduled_sampling_reflexflow", SCHEDULED_SAMPLING),
    "validation_guidance": _guidance("validation_guidance"),
    "validation_guidance_real": _guidance("validation_guidance_real"),
}
TRANSLATED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "controlnet": _not_supported("controlnet"),
    "init_lora_from": _not_supported("init_lora_from"),
    "lora_type": _lora_type,
    "model_family": _model_family,
    "model_type": _model_type,
    "num_train_epochs": _epochs,
    "push_checkpoints_to_hub": _not_supported("push_checkpoints_to_hub"),
    "resolution": _resolution,
    "validation_num_inference_steps": _validation_steps,
    "validation_prompt": _validation_prompt,
}
