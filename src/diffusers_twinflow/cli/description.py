"""Collect what `info` shows about a TwinFlow repository."""

from typing import Any

from ..families import FAMILIES
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
    lora, scheduler = map(repository.find, (LORA_NAME, SCHEDULER_NAME))
    if lora:
        shapes = read_header(lora).shapes
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
    """Read the shapes of the time conditioning, by name, from file headers.

    The time conditioning of a whole model is in its transformer's folder. Older versions saved it with the transformer's
    weights. These are searched if they are on this machine.
    """
    folder = "" if config.train_type == LORA else f"{FAMILIES[config.family].component_name}/"
    name = f"{folder}{CONDITIONING_NAME}"
    if folder and not repository.is_local:
        options = {"subfolder": repository.subfolder, **repository.hub_options}
        repository = locate_repository(repository.name, patterns=[name], **options)
    path = repository.find(name)
    if path is not None:
        return split_unfolded(read_header(path).shapes)[0]
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in (repository.directory / folder).glob(WEIGHTS) if folder else ():
        shapes |= read_header(shard, float_only=False).shapes
    return {name: shape for name, shape in shapes.items() if name.startswith("time_conditioning.")}


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return how many numbers tensors of these shapes contain in total."""
    total = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        total += size
    return total
