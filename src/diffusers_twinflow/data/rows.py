"""Rows of a data set, read with `datasets`; images stay encoded until they are needed."""

import hashlib
import importlib.util
import os
from pathlib import Path

from datasets import Dataset, Image, IterableDataset, LargeList, List, Video, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetsError
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.videofolder.videofolder import VideoFolder

from ..configuration import TwinFlowConfigError
from .captions import CaptionSource, text_file
from .clips import Clip
from .images import files_of

Rows = Dataset | IterableDataset

BUILDERS = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
VIDEOS = (*VideoFolder.EXTENSIONS, ".webm")
KEY_COLUMNS = ("__key__", "__url__")
"""What a webdataset calls a sample."""


def load_rows(
    dataset_name: str | None = None,
    *,
    config_name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    instance_data_dir: str | None = None,
    data_files: list[str] | None = None,
    prompts_file: str | None = None,
    cache_dir: str | None = None,
    streaming: bool = False,
) -> Rows:
    """Load a Hub dataset, a local folder, files, or a list of prompts.

    Args:
        dataset_name: Hub dataset, a local folder in any layout that `datasets` knows, or a builder's name, such as
            "webdataset", for `data_files`.
        instance_data_dir: a local folder of images, or of videos and nothing else, with or without a metadata.jsonl or metadata.csv.
        data_files: paths or patterns of files; their ending says how they are read, unless `dataset_name` does.
        prompts_file: a text file with a prompt a line, or a json, jsonl, csv or parquet table.
        streaming: read while training, without a copy on disk.

    Raises:
        TwinFlowConfigError: where no source or several are given, or the source cannot be read.
    """
    sources = {"dataset_name": dataset_name, "instance_data_dir": instance_data_dir, "prompts_file": prompts_file}
    given = [name for name, value in sources.items() if value] or ["data_files"] * bool(data_files)
    if len(given) != 1:
        raise TwinFlowConfigError(
            f"data comes from one of --dataset_name, --instance_data_dir, --data_files and --prompts_file, "
            f"given: {', '.join(given) or 'none'}."
        )
    options = {"split": split, "cache_dir": cache_dir, "streaming": streaming}
    option = given[0]
    try:
        if option == "instance_data_dir":
            return _load_folder(instance_data_dir, options)
        if option == "prompts_file":
            return _load_files([prompts_file], None, options | {"split": "train"})
        if option == "data_files":
            return _load_files(data_files, None, options)
        if data_files and dataset_name in BUILDERS.values():
            return _load_files(data_files, dataset_name, options)
        return load_dataset(dataset_name, config_name, revision=revision, data_files=data_files, **options)
    except (OSError, ValueError, DatasetsError, DatasetGenerationError) as error:
        source = sources.get(option) or data_files
        cause = error.__cause__ or error
        raise TwinFlowConfigError(
            f"{option}='{source}' cannot be read ({cause}): give a Hub dataset, a folder of images, or parquet, "
            "webdataset, json or csv files."
        ) from error


def _load_folder(directory: str, options: dict) -> Rows:
    if not Path(directory).is_dir():
        raise FileNotFoundError("there is no such folder")
    has_videos = any(path.suffix.lower() in VIDEOS for path in Path(directory).rglob("*"))
    builder = "videofolder" if has_videos else "imagefolder"
    return load_dataset(builder, data_dir=directory, drop_labels=True, **options)


def _load_files(data_files: list[str], builder: str | None, options: dict) -> Rows:
    suffixes = {Path(name).suffix for name in data_files}
    builders = {BUILDERS.get(suffix) for suffix in suffixes}
    if builder is None and (len(builders) != 1 or None in builders):
        raise ValueError(f"files ending in {', '.join(sorted(suffixes))} are not read: one of {', '.join(BUILDERS)}")
    return load_dataset(builder or builders.pop(), data_files={options["split"]: data_files}, **options)


def keep_encoded(
    rows: Rows,
    image_column: str | None,
    captions: CaptionSource,
    reference_image_column: str | None = None,
    clip: Clip | None = None,
) -> Rows:
    """Check that the columns are there, leave images as `{"bytes", "path"}` rather than decoded, and drop the rest.

    Args:
        image_column, reference_image_column: `None` where such images are not used.
        clip: what of a video is trained on, where the images are videos or lists of frames.

    Raises:
        TwinFlowConfigError: where a column is not there, or holds videos and is not to, or the other way round.
    """
    first = {} if rows.features else next(iter(rows.take(1)), {})
    names = rows.column_names or list(first)
    read_column = image_column or (captions.image_column if captions.reads_path else None)
    images = {"image_column": read_column, "reference_image_column": reference_image_column}
    wanted = [(option, column) for option, column in images.items() if column]
    for option, column in wanted + [("caption_column", column) for column in captions.needed_columns]:
        if column not in names:
            raise TwinFlowConfigError(
                f"{option}='{column}' is no column of the data: choose one of {', '.join(names) or 'none'}."
            )
    for column in filter(None, images.values()):
        kind = (rows.features or {}).get(column)
        is_list = isinstance(kind, (List, LargeList)) or isinstance(first.get(column), list)
        if column == image_column:
            _check_clip(column, clip, is_list=is_list, is_video=isinstance(kind, Video))
        rows = rows.cast_column(column, List(Image(decode=False)) if is_list else Image(decode=False))
    used = {*captions.needed_columns, *KEY_COLUMNS, *images.values()}
    return rows.select_columns([name for name in names if name in used])


def _check_clip(column: str, clip: Clip | None, *, is_list: bool, is_video: bool) -> None:
    if clip is None and (is_list or is_video):
        raise TwinFlowConfigError(f"image_column='{column}' holds videos: set --num_frames to train on clips of them.")
    if clip is not None and clip.fps and is_list:
        raise TwinFlowConfigError(
            f"video_fps={clip.fps:g} is of video files, and image_column='{column}' holds lists of frames: leave it out."
        )
    if clip is not None and not is_list and importlib.util.find_spec("av") is None:
        raise TwinFlowConfigError("--num_frames needs a package that is not installed: pip install av.")


def unlisted_images(rows: Dataset, image_column: str) -> list[str]:
    """Files of the same kind in the folders of the data that no metadata lists; `datasets` therefore leaves them out."""
    paths = [Path(file["path"]) for file in _local_files(rows, image_column)]
    listed = set(paths)
    suffixes = {path.suffix.lower() for path in listed}
    alike = {suffix for kind in (ImageFolder.EXTENSIONS, VIDEOS) if suffixes & {*kind} for suffix in kind}
    return sorted(
        str(path)
        for folder in {path.parent for path in paths}
        for path in folder.glob("*")
        if path.suffix.lower() in alike and path not in listed
    )


def files_state(rows: Dataset, image_column: str | None, captions: CaptionSource) -> str:
    """A hash of name, size and time of the local files that rows only point to; it changes when a file does."""
    digest = hashlib.sha256()
    column = image_column or captions.image_column
    paths = [file["path"] for file in _local_files(rows, column)] if column in rows.column_names else []
    if captions.strategy == "textfile":
        paths += [str(text_file(path)) for path in paths]
    for path in paths:
        status = os.stat(path) if os.path.exists(path) else None
        digest.update(f"{path} {status and (status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def _local_files(rows: Dataset, image_column: str) -> list[dict]:
    """The images and videos of rows that hold a path instead of the file's content."""
    if not len(rows) or any(file["bytes"] for file in files_of(rows[0][image_column])):
        return []
    return [file for value in rows[image_column] for file in files_of(value) if file["path"]]
