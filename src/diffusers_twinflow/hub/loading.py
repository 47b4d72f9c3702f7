"""Load a TwinFlow LoRA into a pipeline, next to other LoRAs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file

from ..configuration import TwinFlowConfigError
from ..families import Family, family_of
from ..models import enable_twinflow, is_twinflow_transformer
from ..models.target_folding import foldable_layers
from ..schedulers import TwinFlowScheduler
from .adapter_states import activate_beside, read_states
from .base_loras import BaseLora, merged_base_loras
from .config_types import check_types
from .files import (
    CONFIG_NAME,
    PART_NAMES,
    SCHEDULER_NAME,
    LocatedRepository,
    check_finite,
    locate_repository,
    read_header,
    read_json,
)
from .loaded_pipeline import LoraPipeline
from .lora_check import check_lora, read_lora
from .lora_files import load_lora
from .merging import merge_lora
from .pipeline_classes import as_pipeline
from .portable import Portable, without_folded
from .repository import LORA, TwinFlowRepositoryConfig
from .unloading import STATE_NAME, LoadedLora, remove_adapter

logger = logging.get_logger(__name__)


def load_twinflow_lora(
    pipeline: DiffusionPipeline,
    name_or_path: str | Path,
    *,
    adapter_name: str = "twinflow",
    merge: bool = False,
    **hub_options: Any,
) -> TwinFlowRepositoryConfig:
    """Load a TwinFlow LoRA, its time conditioning and its scheduler into a stock pipeline.

    The repository is checked before the pipeline is changed. If loading fails, the pipeline does not change. Other
    LoRAs stay loaded: `set_adapters`, adapter weights and `fuse_lora` work as for any LoRA. The pipeline object becomes
    an instance of a subclass of its class. The subclass saves and unloads the TwinFlow parts with the rest, and warns
    about calls whose arguments damage the images.

    Args:
        pipeline: stock pipeline of the base model.
        name_or_path: local directory or Hub repository.
        adapter_name: name of the adapter on the pipeline. Defaults to "twinflow".
        merge: merge the LoRA into the base's weights, which makes calls as fast as the base. Methods that change
            adapters, such as `load_lora_weights`, unmerge it first. The LoRA is not merged if the base is quantized,
            is offloaded or has another LoRA. Defaults to `False`.
        hub_options: `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only`, `force_download`.

    Returns:
        The configuration of the repository, for example with its `num_inference_steps`.

    Raises:
        TwinFlowConfigError: if the repository is not a TwinFlow LoRA, is damaged, or belongs to another model family or
            size.

    Examples:
        >>> pipe = DiffusionPipeline.from_pretrained("stabilityai/stable-diffusion-3.5-medium").to("cuda")
        >>> config = load_twinflow_lora(pipe, "me/my-lora")
        >>> image = pipe("a red fox", num_inference_steps=config.num_inference_steps, guidance_scale=0.0).images[0]
    """
    repository = locate_repository(name_or_path, **hub_options)
    return load_located_lora(pipeline, repository, adapter_name=adapter_name, merge=merge)


def load_located_lora(
    pipeline: DiffusionPipeline,
    repository: LocatedRepository,
    *,
    adapter_name: str = "twinflow",
    merge: bool = False,
    is_base_unchanged: bool = False,
    base_loras: Sequence[BaseLora] | None = None,
) -> TwinFlowRepositoryConfig:
    """Load a TwinFlow LoRA from a repository whose files are on this machine.

    Args:
        pipeline, adapter_name, merge: as in `load_twinflow_lora`.
        repository: repository of the LoRA.
        is_base_unchanged: whether the base's weights are known to be equal to the weights in its files.
        base_loras: LoRAs that the base contains; defaults to those that the repository was trained with.
    """
    config = TwinFlowRepositoryConfig.load_located(repository)
    family = family_of(pipeline, config.family)
    _check_pipeline(pipeline, family, adapter_name)
    if base_loras is None:
        _warn_of_base_loras(pipeline, config, repository)
    if config.train_type != LORA or config.family != family.name:
        raise TwinFlowConfigError(
            f"'{repository.name}' is a {config.train_type} model of {config.family}, and the pipeline is a "
            f"{family.name}: load it with TwinFlowPipeline.from_pretrained, or into a pipeline of its family."
        )
    _check_denoisers(pipeline, family, config, repository)
    denoisers = family.denoisers(pipeline)
    parts = {name: _read_part(repository, config, family, name, model) for name, model in denoisers.items()}
    scheduler = read_scheduler(repository, config)

    before = {name: read_states(model) for name, model in denoisers.items()}
    try:
        for name, transformer in denoisers.items():
            part = parts[name]
            load_lora(family, pipeline, transformer, part.weights, part.metadata, adapter_name)
            if part.conditioning is not None:
                enable_twinflow(transformer, family.transformer_class)
                transformer.time_conditioning.load_state_dict(part.conditioning)
            activate_beside(transformer, adapter_name, before[name])
        if merge:
            merge_lora(pipeline, adapter_name, is_base_unchanged=is_base_unchanged)
    except Exception:
        remove_adapter(pipeline, adapter_name, before)
        raise
    state = LoadedLora(adapter_name, pipeline.scheduler, before)
    pipeline.scheduler = scheduler
    as_pipeline(pipeline, LoraPipeline, **{STATE_NAME: state, "twinflow_config": config.with_base_of(repository)})
    return config


@dataclass(frozen=True)
class _Part:
    """The files of one denoiser, read.

    Attributes:
        weights: the low-rank weights.
        metadata: fields of their `LoraConfig`.
        conditioning: the time conditioning; `None` if there is none.
    """

    weights: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    conditioning: dict[str, torch.Tensor] | None


def _read_part(
    repository: LocatedRepository, config: TwinFlowRepositoryConfig, family: Family, name: str, transformer: ModelMixin
) -> _Part:
    """Read and check the files of one denoiser."""
    lora_name, conditioning_name = (config.file_of(name, each) for each in PART_NAMES)
    lora_path, conditioning_path = repository.find(lora_name), repository.find(conditioning_name)
    if lora_path is None:
        raise TwinFlowConfigError(f"'{repository.name}' has no {lora_name}: save it again with save_twinflow_lora.")
    if conditioning_path is None and config.needs_time_conditioning:
        raise TwinFlowConfigError(
            f"'{repository.name}' has no {conditioning_name}, and the LoRA does not work without it: save it again with "
            "save_twinflow_lora."
        )
    check_lora(lora_path, transformer, family.component_name)
    weights, metadata = _read_lora(lora_path, config, family, name, transformer)
    conditioning = _read_conditioning(conditioning_path, transformer, family) if conditioning_path else None
    return _Part(weights, metadata, conditioning)


def _check_denoisers(
    pipeline: DiffusionPipeline, family: Family, config: TwinFlowRepositoryConfig, repository: LocatedRepository
) -> None:
    """Check that the pipeline denoises with the components that the LoRA adapts."""
    trained, present = config.trained_denoisers, [*family.denoisers(pipeline)]
    if trained == present:
        return
    options = ", ".join(f"{name}={value}" for name, value in family.load_options(trained).items())
    remedy = f"with {options}" if options else f"with {' and '.join(trained)} and its boundary_ratio"
    raise TwinFlowConfigError(
        f"'{repository.name}' was trained on {' and '.join(trained)}, and the pipeline denoises with "
        f"{' and '.join(present)}: load the pipeline {remedy}."
    )


def _check_pipeline(pipeline: DiffusionPipeline, family: Family, adapter_name: str) -> None:
    denoisers = family.denoisers(pipeline)
    if getattr(pipeline, STATE_NAME, None) is not None or any(map(is_twinflow_transformer, denoisers.values())):
        raise TwinFlowConfigError(
            "the pipeline is a TwinFlow pipeline already: call unload_twinflow_lora on it first."
        )
    stock_class = family.transformer_class.stock_class()
    for name in denoisers:
        transformer = getattr(pipeline, name)
        if type(transformer) not in (stock_class, family.transformer_class):
            raise TwinFlowConfigError(
                f"the pipeline's {name} is a {type(transformer).__name__}: load the LoRA into a {stock_class.__name__}, "
                "before it is wrapped or compiled."
            )
        if adapter_name in getattr(transformer, "peft_config", {}):
            raise TwinFlowConfigError(
                f"adapter_name={adapter_name!r} is on the pipeline already: choose another name."
            )
        if any(parameter.is_meta for parameter in transformer.parameters()):
            raise TwinFlowConfigError(
                f"the weights of the {name} are offloaded: load the LoRA before you call enable_sequential_cpu_offload."
            )


def _warn_of_base_loras(
    pipeline: DiffusionPipeline, config: TwinFlowRepositoryConfig, repository: LocatedRepository
) -> None:
    """Warn if the LoRA was trained on a base with LoRAs that were not merged into the pipeline."""
    if config.base_loras and not merged_base_loras(pipeline):
        names = ", ".join(config.base_loras)
        logger.warning(
            f"'{repository.name}' was trained on its base with {names}, and the images need them. Merge them with "
            f"merge_base_loras(pipe, {config.base_loras}) before you load this LoRA, or load it with "
            "TwinFlowPipeline.from_pretrained, which does it."
        )


def read_scheduler(repository: LocatedRepository, config: TwinFlowRepositoryConfig) -> TwinFlowScheduler:
    """Load the scheduler of a repository.

    Raises:
        TwinFlowConfigError: if the repository has no scheduler, or the scheduler has another class or cannot run the
            step count of `config`.
    """
    path = repository.find(SCHEDULER_NAME)
    if path is None:
        raise TwinFlowConfigError(
            f"'{repository.name}' has no {SCHEDULER_NAME}, and the model does not work with another scheduler: save it "
            "again with save_twinflow_lora or save_twinflow_model."
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
        raise TwinFlowConfigError(
            f"{SCHEDULER_NAME} of '{repository.name}' is not usable ({error}). Save it again."
        ) from error
    if not is_usable:
        raise TwinFlowConfigError(
            f"{SCHEDULER_NAME} of '{repository.name}' is not usable, because its sigmas are not finite. Save it again."
        )
    return TwinFlowScheduler.from_config(values)


def _read_lora(
    path: Path, config: TwinFlowRepositoryConfig, family: Family, name: str, transformer: ModelMixin
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the weights and metadata of a checked LoRA, without the part that carries the target time.

    Stock pipelines need that part. Here the time conditioning replaces it, on every sampling grid.
    """
    weights, metadata = read_lora(path, family.component_name)
    portable = Portable.from_dict(config.portable) if config.portable is not None else Portable()
    folded = portable.layers_of(name, config.trained_denoisers)
    foreign = folded.keys() - foldable_layers(family.transformer_class, transformer).keys()
    if foreign:
        raise TwinFlowConfigError(
            f"{CONFIG_NAME} says that '{sorted(foreign)[0][:80]}' contains the target time, but this is not a timestep "
            f"embedder of a {type(transformer).__name__}. Save the repository again."
        )
    return without_folded(weights, metadata, folded)


def _read_conditioning(path: Path, model: ModelMixin, family: Family) -> dict[str, torch.Tensor]:
    width = family.transformer_class.timestep_embedding_dim(model)
    with torch.device("meta"):
        conditioning = family.transformer_class.conditioning_of(model)
    expected = {name: tuple(tensor.shape) for name, tensor in conditioning.state_dict().items()}
    if read_header(path).shapes != expected:
        raise TwinFlowConfigError(
            f"'{path.name}' does not fit this transformer, whose timestep embedding has width {width}: "
            "load it into the base model that its twinflow_config.json names."
        )
    check_finite(path)
    tensors = load_file(path)
    if tensors["time_sign_embed.weight"][0].any():
        raise TwinFlowConfigError(
            f"'{path.name}' has an embedding of the sign +1 that is not zero. Save the repository again."
        )
    return tensors
