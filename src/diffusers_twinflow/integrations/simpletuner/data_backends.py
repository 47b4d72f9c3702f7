"""Translate the dataset of a SimpleTuner data configuration ("multidatabackend") to our training options."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import lenient_json
from ...configuration import TwinFlowConfigError
from ...options import check_option_name, misspelled_option

CACHES = ("text_embeds", "image_embeds", "conditioning_image_embeds")
AREA_STEP, SMALLEST_SIDE = 64, 16
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
STRATEGIES = {
    "textfile": "textfile",
    "filename": "filename",
    "instanceprompt": "instance_prompt",
    "parquet": "column",
    "huggingface": "column",
    "csv": "column",
}
TRANSLATED = {
    "caption_column",
    "caption_strategy",
    "crop",
    "crop_aspect",
    "crop_style",
    "csv_caption_column",
    "csv_file",
    "csv_url_column",
    "dataset_name",
    "dataset_type",
    "disable",
    "disabled",
    "huggingface",
    "id",
    "image_column",
    "instance_data_dir",
    "instance_prompt",
    "metadata_backend",
    "only_instance_prompt",
    "parquet",
    "prepend_instance_prompt",
    "repeats",
    "resolution",
    "resolution_type",
    "split",
    "type",
    "video",
    "video_column",
}
NOTHING_DELETED = "no image is deleted"
OWN_CACHES = "use --cache_latents, --cache_text_embeddings and --cache_directory for caching"
ALL_USED = "every image is used; filter the dataset yourself"
WITHOUT_EFFECT = {
    "audio": "the sound track of each video is used if the model generates sound",
    "cache_dir": OWN_CACHES,
    "cache_dir_vae": OWN_CACHES,
    "cache_file_suffix": OWN_CACHES,
    "crop_aspect_buckets": "--aspect_ratio_buckets uses the usual ratios",
    "csv_cache_dir": OWN_CACHES,
    "delete_nsfw_images": NOTHING_DELETED,
    "delete_problematic_images": NOTHING_DELETED,
    "delete_unwanted_images": NOTHING_DELETED,
    "hash_filenames": OWN_CACHES,
    "image_embeds": OWN_CACHES,
    "max_upscale_threshold": ALL_USED,
    "maximum_aspect_ratio": ALL_USED,
    "maximum_image_size": "an image is scaled to cover its size before it is cropped",
    "metadata_update_interval": OWN_CACHES,
    "minimum_aspect_ratio": ALL_USED,
    "minimum_image_size": ALL_USED,
    "num_proc": "use --dataloader_num_workers for the number of processes that read data",
    "preserve_data_backend_cache": OWN_CACHES,
    "probability": "there is one dataset",
    "skip_file_discovery": "the whole dataset is read",
    "target_downsample_size": "an image is scaled to cover its size before it is cropped",
    "text_embeds": OWN_CACHES,
    "vae_cache_clear_each_epoch": OWN_CACHES,
    "vae_cache_disable": OWN_CACHES,
    "vae_cache_ondemand": OWN_CACHES,
}
NOT_SUPPORTED = {
    "caption_shuffle": "shuffle the captions yourself",
    "conditioning": "leave it out",
    "conditioning_data": "leave it out",
    "conditioning_type": "leave it out",
    "disable_multiline_split": "write each caption on one line",
    "end_epoch": "start one run per stage",
    "end_step": "start one run per stage",
    "grounding": "leave it out",
    "is_regularisation_data": "leave it out",
    "is_regularization_data": "leave it out",
    "max_num_samples": "use a part of the data with split, such as 'train[:1000]'",
    "prepend_instance_prompt": "write the instance prompt into the captions",
    "revision": "download this revision, and use its folder",
    "slider_strength": "leave it out",
    "source_dataset_id": "leave it out",
    "start_epoch": "start one run per stage",
    "start_step": "start one run per stage",
    "streaming": "use --streaming",
    "timestep_sampling_offset": "set twinflow_time_alpha and twinflow_time_beta",
}
KINDS = ("image", "video")
OFF: tuple[Any, ...] = (None, False, 0, "", [], {})
UNSET: tuple[Any, ...] = (None, False, "", [], {})
FIRST = {"start_epoch": (0, 1), "start_step": (0, 1)}
IN_BLOCK = {
    "parquet": {"path", "caption_column", "filename_column", "identifier_includes_extension"},
    "huggingface": {"dataset_name", "split", "image_column", "video_column", "caption_column"},
    "video": {"num_frames"},
}
BLOCK_WITHOUT_EFFECT = {
    "width_column",
    "height_column",
    "cache_dir",
    "num_proc",
    "min_frames",
    "max_frames",
    "bucket_strategy",
    "file_extension",
}


@dataclass(frozen=True)
class TranslatedData:
    """The translated options, and the options of the file that have no effect, with reasons by name."""

    options: dict[str, Any] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def translate_data_backends(
    path: str, *, directory: str | Path | None = None, defaults: Mapping[str, Any] | None = None
) -> TranslatedData:
    """Translate the image or video dataset of a SimpleTuner data configuration to our training options.

    Datasets that are disabled or contain cached embeddings are skipped.

    Args:
        path: path of the file, relative to the working directory or to `directory`.
        directory: folder of the recipe that names the file.
        defaults: options of the recipe, used for options that the dataset does not have.

    Raises:
        TwinFlowConfigError: if an option cannot be translated. The message names it and says what to do.
    """
    found = find_path(path, directory)
    if found is None:
        raise TwinFlowConfigError(
            f"data_backend_config='{path}' does not exist. Give its path relative to the working directory or the recipe."
        )
    backend = _one_backend(found)
    name = f"dataset '{backend.get('id')}' of {found.name}"
    known, ignored = sorted({*TRANSLATED, *WITHOUT_EFFECT, *NOT_SUPPORTED}), {}
    for key, value in backend.items():
        if key in WITHOUT_EFFECT and value not in OFF:
            ignored[f"{found.name}: {key}"] = WITHOUT_EFFECT[key]
        elif value not in UNSET or misspelled_option(key, known):
            check_option_name(key, known)
    inherited = {key: value for key, value in (defaults or {}).items() if key in TRANSLATED and value is not None}
    backend = inherited | {key: value for key, value in backend.items() if value is not None}
    for key, remedy in NOT_SUPPORTED.items():
        if backend.get(key) not in OFF and backend[key] not in FIRST.get(key, ()):
            raise _refusal(name, key, backend[key], remedy)
    options = _source(name, backend, directory) | _captions(name, backend) | size_options(name, backend)
    options |= _crop(name, backend) | {"repeats": _count(name, "repeats", backend.get("repeats", 0)) + 1}
    _check_sound(name, backend)
    return TranslatedData(options | _clips(name, backend), ignored)


def size_options(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a resolution in the unit of `resolution_type` to `resolution`, the side of a square in pixels.

    Raises:
        TwinFlowConfigError: if the resolution or the unit is not valid. `name` is the dataset in the message.
    """
    value, unit = values.get("resolution"), values.get("resolution_type") or "pixel_area"
    if value is None:
        return {}
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise _refusal(name, "resolution", value, "give a number above 0")
    if unit == "area":
        return {"resolution": max(1, round(math.sqrt(value * 1e6) / AREA_STEP)) * AREA_STEP}
    if unit not in ("pixel", "pixel_area"):
        raise _refusal(name, "resolution_type", unit, "use pixel, area or pixel_area")
    if value != int(value) or value < SMALLEST_SIDE:
        raise _refusal(name, "resolution", value, "give a whole number of pixels, or set resolution_type to area")
    return {"resolution": int(value)}


def find_path(text: str, directory: str | Path | None) -> Path | None:
    """Find a path relative to the working directory, or else to `directory`. Returns `None` if neither exists."""
    candidates = [Path(text).expanduser(), *([Path(directory, text)] if directory is not None else [])]
    return next((path for path in candidates if path.exists()), None)


def _refusal(name: str, key: str, value: Any, remedy: str) -> TwinFlowConfigError:
    return TwinFlowConfigError(f"{name} has {key}={value!r}, which is not supported: {remedy}.")


def _one_backend(path: Path) -> dict[str, Any]:
    try:
        backends = lenient_json.loads(path.read_bytes())
    except OSError as error:
        raise TwinFlowConfigError(
            f"data_backend_config='{path}' cannot be read ({error.strerror}). Give the path of a JSON file."
        ) from error
    except ValueError as error:
        raise TwinFlowConfigError(
            f"data_backend_config='{path}' is not valid JSON ({error}). Correct the file, which must be a JSON list of "
            "backends."
        ) from error
    if not isinstance(backends, list) or not all(isinstance(backend, dict) for backend in backends):
        raise TwinFlowConfigError(f"data_backend_config='{path}' must be a list of JSON objects.")
    used = [
        backend
        for backend in backends
        if not (backend.get("disabled") or backend.get("disable")) and backend.get("dataset_type") not in CACHES
    ]
    for backend in used:
        kind = backend.get("dataset_type") or "image"
        if kind not in KINDS:
            name = f"dataset '{backend.get('id')}' of {path.name}"
            raise _refusal(name, "dataset_type", kind, "only images and videos are supported; disable it")
    data = [backend for backend in used if _has_data(backend)]
    if len(data) != 1:
        names = ", ".join(f"'{backend.get('id')}'" for backend in data) or "none"
        raise TwinFlowConfigError(
            f"data_backend_config='{path}' has {len(data)} datasets to train on ({names}), but a run can use only one. "
            "Disable the others, or copy their images or videos into one folder."
        )
    return data[0]


def _has_data(backend: Mapping[str, Any]) -> bool:
    """Return whether a dataset has images or videos. In older files, an entry without a path only stores embeddings."""
    places = ("instance_data_dir", "dataset_name", "huggingface", "csv_file")
    return bool(backend.get("dataset_type")) or any(backend.get(key) for key in places)


def _source(name: str, backend: Mapping[str, Any], directory: str | Path | None) -> dict[str, Any]:
    kind = _text(name, "type", backend.get("type", "local"))
    readers: dict[str, Callable] = {"local": _local_source, "huggingface": _hub_source, "csv": _csv_source}
    if kind not in readers:
        raise _refusal(name, "type", kind, f"use {', '.join(readers)}; download other data first")
    return readers[kind](name, backend, directory)


def _local_source(name: str, backend: Mapping[str, Any], directory: str | Path | None) -> dict[str, Any]:
    folder = _path(name, "instance_data_dir", backend.get("instance_data_dir"), directory)
    if backend.get("caption_strategy") != "parquet":
        return {"instance_data_dir": str(folder)}
    table = _block(name, backend, "parquet")
    path = _text(name, "parquet.path", table.get("path"))
    if Path(path).name not in METADATA_NAMES or table.get("filename_column") != "file_name":
        raise _refusal(
            name,
            "parquet",
            table,
            f"name the table {' or '.join(METADATA_NAMES)}, in the images' folder, with their names, endings "
            "included, in a column file_name",
        )
    return {"instance_data_dir": str(folder), "caption_column": _columns(name, table.get("caption_column"))}


def _hub_source(name: str, backend: Mapping[str, Any], directory: str | Path | None) -> dict[str, Any]:
    values = {**backend, **_block(name, backend, "huggingface")}
    options: dict[str, Any] = {"dataset_name": _text(name, "dataset_name", values.get("dataset_name"))}
    if values.get("split"):
        options["dataset_split"] = _text(name, "split", values["split"])
    column = "video_column" if values.get("dataset_type") == "video" else "image_column"
    if values.get(column) or column == "video_column":
        options["image_column"] = _text(name, column, values.get(column) or "video")
    if _strategy(name, backend) == "column":
        options["caption_column"] = _columns(name, values.get("caption_column", "caption"))
    return options


def _csv_source(name: str, backend: Mapping[str, Any], directory: str | Path | None) -> dict[str, Any]:
    return {
        "data_files": [str(_path(name, "csv_file", backend.get("csv_file"), directory))],
        "image_column": _text(name, "csv_url_column", backend.get("csv_url_column") or "url"),
        "caption_column": _columns(name, backend.get("csv_caption_column")),
    }


def _clips(name: str, backend: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of frames for a video dataset. Shorter videos are left out and reported."""
    if backend.get("dataset_type") != "video":
        if backend.get("video") not in OFF:
            raise _refusal(name, "video", backend["video"], "set dataset_type to video, or leave it out")
        return {}
    frames = _block(name, backend, "video").get("num_frames")
    if isinstance(frames, bool) or not isinstance(frames, (int, float)) or frames < 1 or frames != int(frames):
        raise _refusal(name, "video.num_frames", frames, "give the number of frames per video, such as 81")
    return {"num_frames": int(frames)}


def _check_sound(name: str, backend: Mapping[str, Any]) -> None:
    """Check that sound comes from the videos."""
    block = backend.get("audio") or {}
    if not isinstance(block, dict):
        raise _refusal(name, "audio", block, "it must be a JSON object")
    if block.get("auto_split", True) is False:
        raise _refusal(name, "audio.auto_split", False, "leave it out; videos without a sound track train no sound")


def _block(name: str, backend: Mapping[str, Any], key: str) -> dict[str, Any]:
    block = backend.get(key) or {}
    if not isinstance(block, dict):
        raise _refusal(name, key, block, "it must be a JSON object")
    for inner, value in block.items():
        if inner not in IN_BLOCK[key] | BLOCK_WITHOUT_EFFECT and value not in OFF:
            raise _refusal(name, f"{key}.{inner}", value, "leave it out")
    return block


def _path(name: str, key: str, value: Any, directory: str | Path | None) -> Path:
    found = find_path(_text(name, key, value), directory)
    if found is None:
        raise TwinFlowConfigError(
            f"{name} has {key}='{value}', which does not exist: give its path as seen from here."
        )
    return found


def _text(name: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _refusal(name, key, value, "give a string")
    return value


def _columns(name: str, value: Any) -> list[str]:
    columns = value if isinstance(value, list) else [value]
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise _refusal(name, "caption_column", value, "name the column of the captions, or several")
    return columns


def _strategy(name: str, backend: Mapping[str, Any]) -> str:
    given = backend.get("caption_strategy") or ("huggingface" if backend.get("type") == "huggingface" else "filename")
    if _text(name, "caption_strategy", given) not in STRATEGIES:
        raise _refusal(name, "caption_strategy", given, f"use one of {', '.join(STRATEGIES)}")
    return "instance_prompt" if backend.get("only_instance_prompt") else STRATEGIES[given]


def _captions(name: str, backend: Mapping[str, Any]) -> dict[str, Any]:
    strategy = _strategy(name, backend)
    if strategy != "instance_prompt":
        return {"caption_strategy": strategy}
    return {
        "caption_strategy": strategy,
        "instance_prompt": _text(name, "instance_prompt", backend.get("instance_prompt")),
    }


def _crop(name: str, backend: Mapping[str, Any]) -> dict[str, Any]:
    style, aspect = backend.get("crop_style", "random"), backend.get("crop_aspect", "square")
    if not backend.get("crop", False):
        if backend.get("resolution_type") == "pixel":
            raise _refusal(name, "crop", False, "with resolution_type=pixel, set crop, or resolution_type=pixel_area")
        return {"aspect_ratio_buckets": "auto", "center_crop": True}
    if style not in ("center", "random"):
        raise _refusal(name, "crop_style", style, "use center or random")
    if aspect not in ("square", "preserve", "closest"):
        raise _refusal(name, "crop_aspect", aspect, "use square, preserve or closest")
    buckets = {} if aspect == "square" else {"aspect_ratio_buckets": "auto"}
    return {"center_crop": style == "center", **buckets}


def _count(name: str, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 0:
        raise _refusal(name, key, value, "give a whole number of 0 or more")
    return int(value)
