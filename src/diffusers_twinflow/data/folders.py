"""Read the rows of a local folder of images or videos."""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, List, Video

from ..image_files import check_regular
from .listing import VIDEOS, Listing
from .text_files import read_text

FILE_NAME = "file_name"
FILE_NAMES = "file_names"


class FolderRows(NamedTuple):
    """The rows of a folder.

    Attributes:
        rows: one row per image or video, or per row of the metadata.
        unlisted: images or videos that the metadata does not name.
        ignored: reason why each other file is left out, by path.
    """

    rows: Dataset
    unlisted: list[str]
    ignored: dict[str, str]


def read_folder(listing: Listing, image_column: str | None = None, cache_dir: str | None = None) -> FolderRows:
    """Read the rows of a folder from its files, or from its metadata files if there are any.

    Args:
        image_column: "image" or "video", to choose one in a folder that has both. Defaults to images.

    Raises:
        FileNotFoundError: if there is no image and no video.
        ValueError: if a metadata file cannot be read.
    """
    ignored = dict(listing.ignored) | dict.fromkeys(listing.tables, "not an image or a video")
    if not any(listing.media.values()):
        found = ", ".join(f"{count} x {reason}" for reason, count in Counter(ignored.values()).most_common())
        contents = f"left out: {found}" if found else "the folder is empty"
        raise FileNotFoundError(f"no image or video in '{listing.folder}'; {contents}")
    columns = _read_metadata(listing) if listing.metadata else _columns_of_files(listing, image_column)
    named = {path for column in columns.values() for path in column.paths}
    kind = next((name for name, paths in listing.media.items() if named & {*paths} or name in columns), "image")
    unlisted = [path for path in listing.media[kind] if path not in named]
    other = "an image among videos" if kind == "video" else "a video among images"
    ignored |= {
        path: other for name, paths in listing.media.items() if name != kind for path in paths if path not in named
    }
    return FolderRows(_dataset(columns, cache_dir), unlisted, ignored)


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        feature: type of the values, or `None` to infer it.
    """

    values: list
    feature: Any = None

    @property
    def paths(self) -> Iterator[str]:
        """Yield the paths in a column of files."""
        if isinstance(self.feature, (Image, Video)):
            yield from filter(None, self.values)
        elif isinstance(self.feature, List):
            yield from (path for paths in self.values for path in paths or [])


def _columns_of_files(listing: Listing, image_column: str | None) -> dict[str, Column]:
    """Make one row per file. If there are several folders of the same depth, the folder's name is the label."""
    kinds = {name: paths for name, paths in listing.media.items() if paths}
    kind = image_column if image_column in kinds else next(iter(kinds))
    paths = kinds[kind]
    columns = {kind: Column(paths, Video(decode=False) if kind == "video" else Image(decode=False))}
    folders = [Path(path).parent for path in paths]
    names = sorted({folder.name for folder in folders})
    if len(names) > 1 and len({len(folder.parts) for folder in folders}) == 1:
        columns["label"] = Column([names.index(folder.name) for folder in folders], ClassLabel(names=names))
    return columns


def _read_metadata(listing: Listing) -> dict[str, Column]:
    """Concatenate the tables of all metadata files, with paths in place of file names."""
    folders = [os.path.dirname(path) for path in listing.metadata]
    for path, folder in zip(listing.metadata, folders):
        if folders.count(folder) > 1:
            raise ValueError(f"'{folder}' has several metadata files, such as '{path}': keep only one of them")
    rows = [
        {name: _found(listing, folder, name, value) for name, value in row.items()}
        for path, folder in zip(listing.metadata, folders)
        for row in read_table(path)
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not any(name.endswith((FILE_NAME, FILE_NAMES)) for name in names):
        raise ValueError(f"'{listing.metadata[0]}' has no column '{FILE_NAME}' with a row that names an image")
    return dict(_column(name, [row.get(name) for row in rows]) for name in names)


def _column(name: str, values: list) -> tuple[str, Column]:
    """Return a column of the metadata with the name that `datasets` gives it."""
    if _is_of(name, FILE_NAME):
        feature = _file_feature(filter(None, values))
        base = "video" if isinstance(feature, Video) else "image"
        return _without(name, FILE_NAME) or base, Column(values, feature)
    if _is_of(name, FILE_NAMES):
        feature = _file_feature(path for paths in values for path in paths or [])
        base = "videos" if isinstance(feature, Video) else "images"
        return _without(name, FILE_NAMES) or base, Column(values, List(feature))
    return name, Column(values)


def _is_of(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f"_{ending}")


def _without(name: str, ending: str) -> str:
    return name[: -len(ending)].removesuffix("_")


def _file_feature(paths: Iterable[str]) -> Image | Video:
    suffixes = {os.path.splitext(path)[1].lower() for path in paths}
    return Video(decode=False) if suffixes and suffixes <= {*VIDEOS} else Image(decode=False)


def _found(listing: Listing, folder: str, name: str, value: Any) -> Any:
    """Return a value of the metadata, or the path if the value is a file name."""
    if _is_of(name, FILE_NAME):
        return listing.find(str(value), folder) if value else None
    if _is_of(name, FILE_NAMES):
        return [listing.find(str(each), folder) for each in value or []]
    return value


def read_table(path: str) -> list[dict]:
    """Read the rows of a csv, jsonl or parquet file. All values of a csv file are texts, exactly as written.

    Raises:
        ValueError: if the file cannot be read.
    """
    suffix = os.path.splitext(path)[1]
    check_regular(path)
    try:
        if suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        if suffix == ".csv":
            return pd.read_csv(io.StringIO(read_text(path)), dtype=str, na_filter=False).to_dict("records")
    except (pa.ArrowInvalid, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"'{path}': {error}") from error
    return [_row(path, number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def _row(path: str, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}', line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f'\'{path}\', line {number}: each line must be an object, such as {{"{FILE_NAME}": "a.png"}}')
    return row


def _dataset(columns: dict[str, Column], cache_dir: str | None) -> Dataset:
    """Store the columns as a dataset on disk. For the same content, `datasets` finds it again."""
    values = {name: column.values if column.feature else _storable(column.values) for name, column in columns.items()}
    inferred = {name: pa.array(values[name]) for name, column in columns.items() if not column.feature}
    schema = pa.schema([(name, array.type) for name, array in inferred.items()])
    others = Features.from_arrow_schema(schema)
    features = Features({name: column.feature or others[name] for name, column in columns.items()})
    content = json.dumps([values, repr(features)], default=str)
    return Dataset.from_generator(
        _generate_rows,
        features=features,
        cache_dir=cache_dir,
        gen_kwargs={"values": values},
        fingerprint=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32],
    )


def _generate_rows(values: dict[str, list]) -> Iterator[dict]:
    for row in zip(*values.values()):
        yield dict(zip(values, row))


def _storable(values: list) -> list:
    """Convert values to one type. A column with mixed types becomes texts, or lists of texts if it contains lists."""
    try:
        pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if any(isinstance(value, list) for value in values):
            return [[*map(_as_text, value)] if isinstance(value, list) else [_as_text(value)] for value in values]
        return [*map(_as_text, values)]
    return values


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
