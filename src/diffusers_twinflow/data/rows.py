"""Read the rows of a dataset with `datasets`. Images stay encoded until they are needed."""

import glob
import os
import re
from collections.abc import Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import pandas as pd
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    LargeList,
    List,
    ReadInstruction,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError, DatasetsError
from huggingface_hub import metadata_load

from ..configuration import TwinFlowConfigError
from .batches import LATENTS
from .folders import read_folder
from .listing import Listing, list_folder
from .text_files import encoding_of

Rows: TypeAlias = Dataset | IterableDataset

BUILDERS = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
TEXT_BUILDERS = ("csv", "json", "text")
"""Builders for text files, whose encoding matters and whose image paths are relative to the file."""
READABLE = {
    "dataset_name": "a Hub dataset, or a folder of images or of parquet, webdataset, json, csv or arrow files",
    "instance_data_dir": "a folder of images or videos",
    "data_files": "parquet, webdataset, json, csv or arrow files",
    "prompts_file": "a text file with one prompt per line, or a json, csv or parquet table",
}
"""What each option reads."""
REMEDIES = {
    r"\b[Ss]plit\b": "Set `dataset_split` to a split of the data.",
    r"BuilderConfig|Config name": "Set `dataset_config_name` to one of them.",
    "gated dataset": "Ask for access on its page on the Hub, and log in with `hf auth login`.",
    "on the Hub or cannot be accessed": "Correct the name, or log in with `hf auth login` if it is private.",
    "Couldn't reach": "Check the connection to the Hub, or use a local folder.",
}
"""What to do about errors of `datasets`, by a pattern of their messages. Other errors get the kinds of data in `READABLE`."""
ADVICE = re.compile(r"(?<=[.\]]) (You must be|Visit|Example of usage|Make sure|Check|Please (?!pick one among))")
"""Start of a sentence of advice in a message of `datasets`."""
FOLDER_SHARDS = 64
"""Number of parts of a streamed folder, which are divided among processes and workers."""


class Loaded(NamedTuple):
    """Loaded data.

    Attributes:
        rows: the data.
        unlisted: images or videos of a local folder that its metadata does not name. `None` if this is unknown.
        ignored: reason why each other file of a local folder is left out, by path.
    """

    rows: Rows
    unlisted: list[str] | None = None
    ignored: dict[str, str] = {}


def are_rows(data: Any) -> TypeGuard[Rows]:
    """Return whether data is a dataset of `datasets` with images or captions, and not one with encoded latents."""
    return isinstance(data, (Dataset, IterableDataset)) and LATENTS not in (data.column_names or ())


def is_stream(rows: Rows) -> bool:
    """Return whether rows are read one after the other, so that their number is unknown."""
    return isinstance(rows, IterableDataset)


def load_rows(dataset_name: str | None = None, **options: Any) -> Rows:
    """Load data and return its rows. The arguments are those of `load_source`."""
    return load_source(dataset_name, **options).rows


def load_source(
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
    image_columns: Iterable[str | None] = ("image",),
) -> Loaded:
    """Load a Hub dataset, a local folder, files, or a list of prompts.

    Args:
        dataset_name: Hub dataset, local folder (images, or any layout that `datasets` supports), or the name of a
            builder for `data_files`, such as "webdataset".
        instance_data_dir: local folder of images or videos, with or without a metadata.jsonl or metadata.csv.
        data_files: paths or patterns of files. Their suffix selects the reader, unless `dataset_name` does.
        prompts_file: text file with one prompt per line, or a json, jsonl, csv or parquet table.
        streaming: read the data during training, without a copy on disk.
        image_columns: columns of images. In csv and json files, their paths are relative to the file. `None` entries
            are skipped. The first column selects images or videos in a folder that has both.

    Raises:
        TwinFlowConfigError: if no source or several are given, or the source cannot be read.
    """
    sources = {"dataset_name": dataset_name, "instance_data_dir": instance_data_dir, "prompts_file": prompts_file}
    given = [name for name, value in sources.items() if value] or ["data_files"] * bool(data_files)
    if len(given) != 1:
        raise TwinFlowConfigError(
            f"give exactly one of `dataset_name`, `instance_data_dir`, `data_files` and `prompts_file`, "
            f"not {', '.join(given) or 'none'}."
        )
    options: dict[str, Any] = {"split": split, "cache_dir": cache_dir, "streaming": streaming}
    columns = [column for column in image_columns if column]
    option = given[0]
    try:
        if instance_data_dir:
            return _load_folder(list_folder(instance_data_dir), columns, **options)
        if prompts_file:
            return Loaded(_load_files([prompts_file], None, columns, **options | {"split": "train"}))
        if data_files and not dataset_name:
            return Loaded(_load_files(data_files, None, columns, **options))
        if data_files and dataset_name in BUILDERS.values():
            return Loaded(_load_files(data_files, dataset_name, columns, **options))
        if dataset_name and not data_files and not config_name and os.path.isdir(dataset_name):
            listing = list_folder(dataset_name)
            if _is_folder_of_media(listing):
                return _load_folder(listing, columns, **options)
            if _is_saved(dataset_name):
                return Loaded(_load_saved(dataset_name, split=split, streaming=streaming), unlisted=[])
            if glob.has_magic(dataset_name):
                raise ValueError("a folder of tables whose path has one of *?[ ]; rename it, or use `data_files`")
        return Loaded(load_dataset(dataset_name, config_name, revision=revision, data_files=data_files, **options))
    except (OSError, ValueError, RuntimeError, DatasetsError, DatasetGenerationError) as error:
        source = sources.get(option) or " ".join(data_files or [])
        cause = (isinstance(error, DatasetGenerationError) and error.__cause__) or error
        reason, remedy = reason_and_remedy(str(cause), option)
        raise TwinFlowConfigError(f"{option}='{source}' cannot be read ({reason}). {remedy}") from error


def reason_and_remedy(message: str, option: str) -> tuple[str, str]:
    """Return the reason in a library's message on one line, and one remedy. The library's own advice is left out."""
    text = " ".join(message.split())
    fitting = [remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, text)]
    remedy = fitting[0] if fitting else f"Use {READABLE[option]}."
    advice = ADVICE.search(text)
    return text[: advice.start() if advice else None].rstrip(" .:;,"), remedy


def _is_folder_of_media(listing: Listing) -> bool:
    """Return whether a folder contains images or videos, and not tables or a dataset that its README describes."""
    readme = Path(listing.folder, "README.md")
    if readme.is_file() and "configs" in (metadata_load(readme) or {}):
        return False
    return sum(map(len, listing.media.values())) > len(listing.tables)


def _load_folder(
    listing: Listing, image_columns: list[str], *, split: str, cache_dir: str | None, streaming: bool
) -> Loaded:
    archives = [path for path in listing.tables if path.lower().endswith(".zip")]
    if archives and not any(listing.media.values()):
        options = {"split": split, "cache_dir": cache_dir, "streaming": streaming, "drop_labels": True}
        return Loaded(load_dataset("imagefolder", data_files=[glob.escape(path) for path in archives], **options))
    splits = {name: listing.split(name) for name in _names_of_splits(split)}
    first_column = next(iter(image_columns), None)
    parts = {name: read_folder(part, first_column, cache_dir) for name, part in splits.items()}
    rows = _take({name: part.rows for name, part in parts.items()}, split)
    if streaming:
        rows = rows.to_iterable_dataset(num_shards=max(1, min(FOLDER_SHARDS, len(rows))))
    outside = {*listing.paths}.difference(*(part.paths for part in splits.values()))
    ignored = dict.fromkeys(sorted(outside), f"outside the folder of split '{split}'")
    for part in parts.values():
        ignored |= part.ignored
    return Loaded(rows, [path for part in parts.values() for path in part.unlisted], ignored)


def _is_saved(folder: str) -> bool:
    """Return whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote a folder."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json"))


def _load_saved(folder: str, *, split: str, streaming: bool) -> Rows:
    saved = load_from_disk(folder)
    rows = _take(dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}, split)
    return rows.to_iterable_dataset(num_shards=max(1, min(FOLDER_SHARDS, len(rows)))) if streaming else rows


def _names_of_splits(split: str) -> list[str]:
    return list(dict.fromkeys(part.split("[")[0].strip() for part in split.split("+")))


def _take(rows: dict[str, Dataset], split: str) -> Dataset:
    """Return the rows of a split such as "train[:10%]" or "train+test".

    Args:
        rows: whole splits by name.
        split: split in the notation of `datasets`.
    """
    lengths = {name: len(part) for name, part in rows.items()}
    chosen = [
        rows[part.splitname].select(range(part.from_ or 0, lengths[part.splitname] if part.to is None else part.to))
        for part in ReadInstruction.from_spec(split).to_absolute(lengths)
    ]
    return chosen[0] if len(chosen) == 1 else concatenate_datasets(chosen)


def _load_files(
    data_files: list[str],
    builder: str | None,
    image_columns: list[str],
    *,
    split: str,
    streaming: bool,
    **options: Any,
) -> Rows:
    suffixes = {Path(name).suffix.lower() for name in data_files}
    builders = {BUILDERS.get(suffix) for suffix in suffixes}
    if builder is None:
        builder = builders.pop() if len(builders) == 1 else None
    if builder is None:
        raise ValueError(f"files ending in {', '.join(sorted(suffixes))} are not read: one of {', '.join(BUILDERS)}")
    names = _names_of_splits(split)
    if streaming and names != [split]:
        raise ValueError(f"split '{split}' needs all rows before training: leave `streaming` out")
    parts = []
    for (folder, reader), files in groupby(_find_files(data_files), partial(_reader, builder)):
        part = load_dataset(
            builder,
            data_files={names[0]: [file if _is_remote(file) else glob.escape(file) for file in files]},
            split=names[0],
            streaming=streaming,
            **options,
            **dict(reader),
        )
        parts.append(_with_paths(part, folder, image_columns) if builder in TEXT_BUILDERS else part)
    rows = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    return rows if names == [split] else _take({names[0]: rows}, split)


def _find_files(patterns: list[str]) -> list[str]:
    """Return the files that match patterns. A path that exists is never treated as a pattern."""
    files = []
    for pattern in patterns:
        if _is_remote(pattern):
            files.append(pattern)
        elif os.path.lexists(pattern):
            files.append(os.path.abspath(pattern))
        else:
            found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
            if not found:
                raise FileNotFoundError(f"no file matches '{pattern}'")
            files += map(os.path.abspath, found)
    return files


def _is_remote(path: str) -> bool:
    return "://" in path


def _reader(builder: str, path: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Return the folder that paths in a file are relative to, and the options for reading the file."""
    if builder not in TEXT_BUILDERS or _is_remote(path):
        return "", ()
    encoding = encoding_of(path)
    options: dict[str, Any] = {"encoding": encoding}
    if builder == "csv":
        names = pd.read_csv(path, nrows=0, encoding=encoding).columns
        options |= {"features": Features({name: Value("string") for name in names}), "na_filter": False}
    if builder == "json" and encoding != "utf-8":
        options["chunksize"] = os.path.getsize(path) + 1
    return os.path.dirname(path), tuple(options.items())


def _with_paths(rows: Rows, folder: str, columns: list[str]) -> Rows:
    """Replace the paths in `columns` of a table in `folder` by their files."""
    features = rows.features
    columns = [column for column in columns if features is None or _is_text(features.get(column))]
    if not columns:
        return rows
    if features is not None:
        features = Features({**features, **{column: _files_feature(features[column]) for column in columns}})
    options = {"folder": folder, "columns": columns}
    return rows.map(_find_files_of_rows, batched=True, fn_kwargs=options, features=features)


def _is_text(feature: Any) -> bool:
    if isinstance(feature, (List, LargeList)):
        return _is_text(feature.feature)
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _files_feature(feature: Any) -> Any:
    return List(Image(decode=False)) if isinstance(feature, (List, LargeList)) else Image(decode=False)


def _find_files_of_rows(rows: dict[str, list], folder: str, columns: list[str]) -> dict[str, list]:
    return {name: [_file_in(folder, value) for value in rows[name]] for name in columns if name in rows}


def _file_in(folder: str, value: Any) -> Any:
    """Return the file of a path, or the files of a list of paths, in the form of `Image(decode=False)`.

    A path is relative to `folder`, or to the working directory if the file exists only there.
    """
    if isinstance(value, list):
        return [_file_in(folder, each) for each in value]
    if not isinstance(value, str) or not value:
        return value or None
    path = value if _is_remote(value) else os.path.join(folder, value)
    return {"bytes": None, "path": value if os.path.exists(value) and not os.path.exists(path) else path}
