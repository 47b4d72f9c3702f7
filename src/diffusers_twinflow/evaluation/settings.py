"""Everything that the scores of an evaluation depend on, so that results of different evaluations are never mixed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..hub.files import LOADED_NAMES, LocatedRepository, index_name, read_json
from .arguments import (
    CLIP_SCORE,
    DIVERSITY,
    FID,
    JUDGE,
    OBJECTS,
    TEXT,
    EvaluationArguments,
)
from .checks import images_in
from .prompts import EvaluationPrompt, digest_of

LIBRARIES = ("diffusers-twinflow", "diffusers", "transformers", "torch", "torchmetrics", "torch-fidelity", "rapidocr")
HASHED = ("*.safetensors", "*.json")
CHUNK_BYTES = 2**20


def settings_of(
    args: EvaluationArguments,
    prompts: Sequence[EvaluationPrompt],
    repository: LocatedRepository,
    *,
    base_model: str,
    base_steps: int,
    seed: int,
    image_settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the settings of an evaluation as JSON values.

    The rows are not part of the settings, so an evaluation can be continued with more steps or schedulers.

    Args:
        repository: repository of the adapter.
        base_model: folder or Hub id of the base.
        base_steps: number of steps of the base's best images.
        image_settings: what else decides about the images, such as the height and the dtype.
    """
    names = args.metric_names
    reference = f"base, {base_steps} steps"
    if args.reference_images is not None:
        reference = f"{args.reference_images} ({len(images_in(args.reference_images))} images)"
    of_metrics: dict[str, dict[str, Any]] = {
        FID: {"fid_features": args.fid_features, "fid_reference": reference},
        CLIP_SCORE: {"clip_model": args.clip_model},
        DIVERSITY: {"clip_model": args.clip_model},
        JUDGE: {"judge": args.judge},
        OBJECTS: {"detector": args.detector, "detector_threshold": args.detector_threshold},
        TEXT: {"ocr": args.ocr or "rapidocr"},
    }
    settings: dict[str, Any] = {
        "adapter": repository.name,
        "adapter_sha256": digest_of_repository(repository),
        "base_model": base_model,
        "base_guidance": args.base_guidance,
        "prompts_sha256": digest_of(prompts),
        "number_of_prompts": len(prompts),
        "images_per_prompt": args.images_per_prompt,
        "seed": seed,
        **image_settings,
        "metrics": sorted(names),
    }
    for name in names:
        settings |= of_metrics[name]
    if OBJECTS in names:
        settings["prompts_checked_for_objects"] = sum(prompt.expects_objects for prompt in prompts)
    return settings


def digest_of_repository(repository: LocatedRepository) -> str:
    """Return the SHA-256 of the weights and configurations of a repository, or the commit of a Hub repository."""
    if not repository.is_local:
        return f"commit {repository.hub_options['revision']}"
    digest = hashlib.sha256()
    for path in sorted(_loaded_files(repository.directory)):
        digest.update(path.relative_to(repository.directory).as_posix().encode())
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _loaded_files(directory: Path) -> Iterator[Path]:
    """Return the files that a pipeline is loaded from: a LoRA's, and those in the folders of a whole model's components.

    Other files of a training run, such as its checkpoints and scores, may change without changing the model.
    """
    yield from (path for name in LOADED_NAMES if (path := directory / name).is_file())
    index = directory / index_name(directory)
    if index.is_file():
        components = [name for name, entry in read_json(index).items() if isinstance(entry, list)]
        for folder in (directory / name for name in components):
            yield from (
                path for pattern in HASHED for path in folder.glob(pattern) if path.name != "scheduler_config.json"
            )
