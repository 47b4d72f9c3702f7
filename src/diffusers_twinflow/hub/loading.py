"""Put a TwinFlow LoRA on a pipeline beside other LoRAs, and take it off again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from ..configuration import TwinFlowConfigError
from ..families import Family, family_of
from ..models import disable_twinflow, enable_twinflow
from ..schedulers import TwinFlowScheduler
from .base_weights import unfuse_exactly
from .config_types import check_types
from .files import (
    CONDITIONING_NAME,
    LORA_NAME,
    SCHEDULER_NAME,
    LocatedRepository,
    check_finite,
    locate_repository,
    read_header,
    read_json,
)
from .lora_check import check_lora
from .repository import LORA, TwinFlowRepositoryConfig
from .target_timesteps import is_twinflow_transformer, link_target_timesteps

logger = logging.get_logger(__name__)

STATE_NAME = "_twinflow_lora"


@dataclass(frozen=True)
class LoadedLora:
    """What `unload_twinflow_lora` needs: the adapter's name and the scheduler that was there before."""

    adapter_name: str
    scheduler: Any


def load_twinflow_lora(
    pipeline: DiffusionPipeline, name_or_path: str | Path, *, adapter_name: str = "twinflow", **hub_options
) -> TwinFlowRepositoryConfig:
    """Put a TwinFlow LoRA, its time conditioning and its scheduler on a loaded stock pipeline.

    The repository is checked before the pipeline is touched; where loading fails the pipeline is left as it was. Other
    LoRAs stay: `set_adapters`, weights and `fuse_lora` work as for any LoRA.

    Args:
        name_or_path: local directory or Hub repository.
        adapter_name: name of the adapter on the pipeline.
        hub_options: `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only`, `force_download`.

    Raises:
        TwinFlowConfigError: where the repository is no TwinFlow LoRA, is broken, or belongs to another family or size.
    """
    return load_located_lora(pipeline, locate_repository(name_or_path, **hub_options), adapter_name=adapter_name)


def load_located_lora(
    pipeline: DiffusionPipeline, repository: LocatedRepository, *, adapter_name: str = "twinflow"
) -> TwinFlowRepositoryConfig:
    """`load_twinflow_lora` of a repository whose files are on this machine."""
    config = TwinFlowRepositoryConfig.load_located(repository)
    family = family_of(pipeline)
    _check_pipeline(pipeline, family, adapter_name)
    if config.train_type != LORA or config.family != family.name:
        raise TwinFlowConfigError(
            f"'{repository.name}' holds a {config.train_type} model of {config.family}, and the pipeline is a "
            f"{family.name}: load it with TwinFlowPipeline.from_pretrained, or on a pipeline of its own family."
        )
    lora_path, conditioning_path = repository.find(LORA_NAME), repository.find(CONDITIONING_NAME)
    if lora_path is None:
        raise TwinFlowConfigError(f"'{repository.name}' has no {LORA_NAME}: save it again with save_twinflow_lora.")
    if conditioning_path is None and config.needs_time_conditioning:
        raise TwinFlowConfigError(
            f"'{repository.name}' has no {CONDITIONING_NAME}, and without it the LoRA draws other images: save it again "
            "with save_twinflow_lora."
        )
    transformer = family.denoiser(pipeline)
    check_lora(lora_path, transformer, family.component_name)
    conditioning = _read_conditioning(conditioning_path, pipeline, family) if conditioning_path else None
    scheduler = read_scheduler(repository, config)

    stock_scheduler, other_adapters = pipeline.scheduler, _active_adapters(pipeline)
    try:
        family.load_lora(pipeline, lora_path.parent, LORA_NAME, adapter_name)
        if conditioning is not None:
            enable_twinflow(transformer, family.transformer_class)
            transformer.time_conditioning.load_state_dict(conditioning)
            link_target_timesteps(pipeline)
        if other_adapters:
            transformer.set_adapters([*other_adapters, adapter_name], [*other_adapters.values(), 1.0])
    except Exception:
        _remove(pipeline, adapter_name, other_adapters)
        raise
    pipeline.scheduler = scheduler
    setattr(pipeline, STATE_NAME, LoadedLora(adapter_name, stock_scheduler))
    return config


def unload_twinflow_lora(pipeline: DiffusionPipeline) -> None:
    """Take the TwinFlow LoRA off: the stock transformer and the scheduler from before, bit for bit; other LoRAs stay.

    A fused LoRA is unfused first, and the fused layers' weights are read again from the files that the base was loaded
    from. Where those are gone, or the base's weights were changed since, they come back up to rounding, and a warning
    says so.

    Raises:
        TwinFlowConfigError: where the pipeline has no TwinFlow LoRA.
    """
    state = getattr(pipeline, STATE_NAME, None)
    if state is None:
        raise TwinFlowConfigError("the pipeline has no TwinFlow LoRA: load_twinflow_lora puts one on.")
    inexact = unfuse_exactly(_denoiser(pipeline)) if _is_fused(pipeline, state.adapter_name) else []
    if inexact:
        logger.warning(
            f"The TwinFlow LoRA was fused, and the base's files have no weight of '{inexact[0]}' and {len(inexact) - 1} "
            "other layers: they are the base's up to rounding. Load the pipeline anew for the exact ones."
        )
    others = {name: weight for name, weight in _active_adapters(pipeline).items() if name != state.adapter_name}
    _remove(pipeline, state.adapter_name, others)
    pipeline.scheduler = state.scheduler
    delattr(pipeline, STATE_NAME)
    restore_class = getattr(pipeline, "as_stock_pipeline", None)
    if restore_class is not None:
        restore_class()


def _is_fused(pipeline: DiffusionPipeline, adapter_name: str) -> bool:
    layers = [module for module in _denoiser(pipeline).modules() if isinstance(module, BaseTunerLayer)]
    return any(adapter_name in layer.merged_adapters for layer in layers)


def _denoiser(pipeline: DiffusionPipeline) -> torch.nn.Module:
    return family_of(pipeline).denoiser(pipeline)


def _remove(pipeline: DiffusionPipeline, adapter_name: str, other_adapters: dict[str, float]) -> None:
    transformer = _denoiser(pipeline)
    adapters = set(getattr(transformer, "peft_config", None) or {})
    if adapters == {adapter_name}:
        transformer.unload_lora()
    elif adapter_name in adapters:
        transformer.delete_adapters(adapter_name)
        _unwrap_plain_layers(transformer)
        if other_adapters:
            transformer.set_adapters(list(other_adapters), list(other_adapters.values()))
        else:
            transformer.disable_lora()
    if is_twinflow_transformer(transformer):
        disable_twinflow(transformer)


def _unwrap_plain_layers(transformer: torch.nn.Module) -> None:
    """Put the base's own layer back where an adapter's layer holds no adapter any more."""
    for name, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer) and not module.r:
            transformer.set_submodule(name, module.get_base_layer())


def _active_adapters(pipeline: DiffusionPipeline) -> dict[str, float]:
    """Weights by name of the adapters that are active on the transformer."""
    weights: dict[str, float] = {}
    for layer in _denoiser(pipeline).modules():
        if isinstance(layer, BaseTunerLayer) and not layer.disable_adapters:
            for name in layer.active_adapters:
                if name in getattr(layer, "scaling", {}) and layer.r[name]:
                    weights[name] = layer.scaling[name] / _own_scaling(layer, name)
    return weights


def _own_scaling(layer, name: str) -> float:
    """The scaling of an adapter at weight 1."""
    rank = layer.r[name]
    return layer.lora_alpha[name] / (rank**0.5 if layer.use_rslora.get(name) else rank)


def _check_pipeline(pipeline: DiffusionPipeline, family: Family, adapter_name: str) -> None:
    transformer = family.denoiser(pipeline)
    if getattr(pipeline, STATE_NAME, None) is not None or is_twinflow_transformer(transformer):
        raise TwinFlowConfigError(
            "the pipeline is a TwinFlow pipeline already: call unload_twinflow_lora on it first."
        )
    stock_class = family.transformer_class.stock_class()
    if type(transformer) not in (stock_class, family.transformer_class):
        raise TwinFlowConfigError(
            f"the pipeline's {family.component_name} is a {type(transformer).__name__}: load the LoRA on a "
            f"{stock_class.__name__}, before it is wrapped or compiled."
        )
    if adapter_name in getattr(transformer, "peft_config", {}):
        raise TwinFlowConfigError(f"adapter_name={adapter_name!r} is on the pipeline already: choose another name.")
    if any(parameter.is_meta for parameter in transformer.parameters()):
        raise TwinFlowConfigError(
            f"the {family.component_name} is offloaded to meta: load the LoRA before sequential offloading."
        )


def read_scheduler(repository: LocatedRepository, config: TwinFlowRepositoryConfig) -> TwinFlowScheduler:
    """The repository's scheduler.

    Raises:
        TwinFlowConfigError: if there is none, or it is of another class or cannot take the steps of `config`.
    """
    path = repository.find(SCHEDULER_NAME)
    if path is None:
        raise TwinFlowConfigError(
            f"'{repository.name}' has no {SCHEDULER_NAME}, and another scheduler draws other images: save it again "
            "with save_twinflow_lora or save_twinflow_model."
        )
    values = read_json(path, name=SCHEDULER_NAME)
    if values.get("_class_name") != TwinFlowScheduler.__name__:
        raise TwinFlowConfigError(
            f"{SCHEDULER_NAME} of '{repository.name}' has _class_name={values.get('_class_name')!r}: it must be "
            f"{TwinFlowScheduler.__name__}."
        )
    check_types(f"{SCHEDULER_NAME} of '{repository.name}'", values, TwinFlowScheduler.__init__)
    try:
        scheduler = TwinFlowScheduler.from_config(values)
        scheduler.set_timesteps(config.num_inference_steps)
        is_usable = bool(scheduler.sigmas.isfinite().all())
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise TwinFlowConfigError(f"{SCHEDULER_NAME} of '{repository.name}' is not usable: {error}") from error
    if not is_usable:
        raise TwinFlowConfigError(f"{SCHEDULER_NAME} of '{repository.name}' is not usable: its sigmas are not finite.")
    return TwinFlowScheduler.from_config(values)


def _read_conditioning(path: Path, pipeline: DiffusionPipeline, family: Family) -> dict[str, torch.Tensor]:
    model = family.denoiser(pipeline)
    width = family.transformer_class.timestep_embedding_dim(model)
    with torch.device("meta"):
        conditioning = family.transformer_class.conditioning_of(model)
    expected = {name: tuple(tensor.shape) for name, tensor in conditioning.state_dict().items()}
    if read_header(path).shapes != expected:
        raise TwinFlowConfigError(
            f"'{path.name}' does not fit this transformer, whose timestep embedding is {width} wide: "
            "load it on the base model that its twinflow_config.json names."
        )
    check_finite(path)
    tensors = load_file(path)
    if tensors["time_sign_embed.weight"][0].any():
        raise TwinFlowConfigError(f"'{path.name}' has a positive sign row that is not zero: it is not of this format.")
    return tensors
