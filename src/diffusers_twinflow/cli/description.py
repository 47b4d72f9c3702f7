"""Collect what `info` shows about a TwinFlow repository."""

from typing import Any

from ..hub.component_check import WEIGHTS
from ..hub.files import (
    CONDITIONING_NAME,
    LORA_NAME,
    SCHEDULER_NAME,
    LocatedRepository,
    locate_repository,
    read_header,
    read_json,
)
from ..hub.published_folders import find_published
from ..hub.repository import LORA, TwinFlowRepositoryConfig
from ..models.conditioning_file import split_unfolded


def describe(name_or_path: str, **hub_options: Any) -> dict[str, Any]:
    """Describe a repository as plain values. Only the headers of its weights are read.

    Raises:
        TwinFlowConfigError: if it is not a TwinFlow repository, or it is damaged.
    """
    repository = locate_repository(name_or_path, **hub_options)
    config = TwinFlowRepositoryConfig.load_located(repository)
    values: dict[str, Any] = {
        "train_type": config.train_type,
        "family": config.family,
        "base_model": config.base_model,
        "base_model_revision": config.base_model_revision,
        "base_loras": config.base_loras,
        "num_inference_steps": config.num_inference_steps,
        "steps_trained": config.trained.get("steps"),
    }
    if len(config.trained_denoisers) > 1:
        values["denoisers"] = config.trained_denoisers
    scheduler = repository.find(SCHEDULER_NAME)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in config.trained_denoisers if config.train_type == LORA else ():
        lora = repository.find(config.file_of(name, LORA_NAME))
        if lora:
            shapes |= {f"{name} {key}": shape for key, shape in read_header(lora).shapes.items()}
    if shapes:
        values["lora_modules"] = sum(name.endswith("lora_A.weight") for name in shapes)
        values["lora_rank"] = sorted({shape[0] for name, shape in shapes.items() if name.endswith("lora_A.weight")})
        values["lora_parameters"] = count(shapes)
    published = find_published(repository)
    if published is not None:
        values["published_in"] = str(published.pipeline)
        values["time_conditioning"] = published.layout.conditioning
        return values
    values["time_conditioning_parameters"] = count(conditioning_shapes(repository, config))
    if scheduler:
        scheduler_config = read_json(scheduler, name=SCHEDULER_NAME)
        values["sampling_style"] = scheduler_config.get("sampling_style")
    values["options"] = config.options
    return values


def conditioning_shapes(repository: LocatedRepository, config: TwinFlowRepositoryConfig) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the time conditioning, by denoiser and name, from file headers.

    The time conditioning of a whole model is in its transformer's folder. Older versions saved it with the transformer's
    weights. These are searched if they are on this machine.
    """
    is_lora = config.train_type == LORA
    found: dict[str, tuple[int, ...]] = {}
    files = {
        denoiser: config.file_of(denoiser, CONDITIONING_NAME) if is_lora else f"{denoiser}/{CONDITIONING_NAME}"
        for denoiser in config.trained_denoisers
    }
    if not is_lora and not repository.is_local:
        options = {"subfolder": repository.subfolder, **repository.hub_options}
        repository = locate_repository(repository.name, patterns=list(files.values()), **options)
    for denoiser, name in files.items():
        path = repository.find(name)
        if path is not None:
            shapes = split_unfolded(read_header(path).shapes)[0]
        elif is_lora:
            continue
        else:
            shards = (repository.directory / denoiser).glob(WEIGHTS)
            saved = [read_header(shard, float_only=False).shapes.items() for shard in shards]
            shapes = {k: shape for each in saved for k, shape in each if k.startswith("time_conditioning.")}
        found |= {f"{denoiser}.{k}": shape for k, shape in shapes.items()}
    return found


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return how many numbers tensors of these shapes contain in total."""
    total = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        total += size
    return total
