"""The columns of loaded rows: keep the needed ones, and find the local files that they point to."""

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, LargeList, List, Video

from ..configuration import TwinFlowConfigError
from ..image_files import image_suffixes
from .captions import CaptionSource, text_file
from .clips import Clip
from .images import files_of, path_of
from .listing import VIDEOS
from .rows import Rows

KEY_COLUMNS = ("__key__", "__url__")
"""Columns that a webdataset adds to each sample."""


def keep_encoded(
    rows: Rows,
    image_column: str | None,
    captions: CaptionSource,
    reference_image_column: str | None = None,
    clip: Clip | None = None,
) -> Rows:
    """Check that the needed columns exist, keep their images encoded as `{"bytes", "path"}`, and drop other columns.

    Args:
        image_column, reference_image_column: columns of images, or `None` if they are not used.
        clip: part of each video to train on, if the images are videos or lists of frames.

    Raises:
        TwinFlowConfigError: if a column is missing, if it contains videos but `clip` is `None`, or if `clip` is given
            but it contains images.
    """
    first: dict[str, Any] = {} if rows.features else next(iter(rows.take(1)), {})
    names = rows.column_names or list(first)
    read_column = image_column or (captions.image_column if captions.reads_path else None)
    images = {"image_column": read_column, "reference_image_column": reference_image_column}
    wanted = [(option, column) for option, column in images.items() if column]
    for option, column in wanted + [("caption_column", column) for column in captions.needed_columns]:
        if column not in names:
            raise TwinFlowConfigError(
                f"{option}='{column}' is not a column of the data. The columns are: {', '.join(names) or 'none'}. "
                + _where_it_may_be(option, rows, [name for name in names if name not in images.values()], read_column)
            )
    for column in filter(None, images.values()):
        kind = (rows.features or {}).get(column)
        is_list = isinstance(kind, (List, LargeList)) or isinstance(first.get(column), list)
        if column == image_column:
            _check_clip(column, clip, is_list=is_list, is_video=isinstance(kind, Video))
        if rows.features is not None:  # otherwise `_with_paths` has replaced paths by files
            rows = rows.cast_column(column, List(Image(decode=False)) if is_list else Image(decode=False))
    used = {*captions.needed_columns, *KEY_COLUMNS, *images.values()}
    return rows.select_columns([name for name in names if name in used])


def _where_it_may_be(option: str, rows: Rows, others: list[str], image_column: str | None) -> str:
    """Return the advice for a column that does not exist.

    Args:
        option: option that names the column.
        others: columns that no option uses.
        image_column: column of the images, which may have captions in text files beside them.
    """
    if option == "caption_column":
        if _has_text_file(rows, image_column):
            return "The captions are in text files next to the images: set caption_strategy=textfile."
        if not others:
            return "Give a caption for all images as `instance_prompt`, or see `caption_strategy`."
    return f"Set `{option}` to one of them." if others else "Use data with such a column."


def _has_text_file(rows: Rows, image_column: str | None) -> bool:
    """Return whether a text file is beside the first image or video of a local folder."""
    kind = (rows.features or {}).get(image_column) if image_column else None
    if image_column is None or not isinstance(kind, (Image, Video)):
        return False
    encoded = rows.cast_column(image_column, type(kind)(decode=False))
    first: dict[str, Any] = next(iter(encoded.take(1)), {})
    path = path_of(first.get(image_column))
    return path is not None and text_file(path).is_file()


def _check_clip(column: str, clip: Clip | None, *, is_list: bool, is_video: bool) -> None:
    if clip is None and (is_list or is_video):
        raise TwinFlowConfigError(f"image_column='{column}' contains videos. Set `num_frames` to train on them.")
    if clip is not None and clip.fps and is_list:
        raise TwinFlowConfigError(
            f"video_fps={clip.fps:g} works only with video files, but image_column='{column}' contains lists of frames. "
            "Leave it out."
        )
    if clip is not None and not is_list and importlib.util.find_spec("av") is None:
        raise TwinFlowConfigError("`num_frames` needs a package that is not installed: pip install av.")


def unlisted_images(rows: Dataset, *columns: str | None) -> list[str]:
    """Return files of the same kind, in the folders of the data, that no row names."""
    paths = [Path(file["path"]) for column in columns if column for file in _local_files(rows, column)]
    listed = set(paths)
    suffixes = {path.suffix.lower() for path in listed}
    alike = {suffix for kind in (image_suffixes(), VIDEOS) if suffixes & {*kind} for suffix in kind}
    return sorted(
        str(path)
        for folder in {path.parent for path in paths}
        for path in folder.glob("*")
        if path.suffix.lower() in alike and path not in listed and not path.name.startswith(".")
    )


def files_state(rows: Dataset, image_column: str | None, captions: CaptionSource) -> str:
    """Return a hash over name, size and time of the local files that rows point to. It changes when a file changes."""
    digest = hashlib.sha256()
    column = image_column or captions.image_column
    paths = [file["path"] for file in _local_files(rows, column)] if column in rows.column_names else []
    if captions.strategy == "textfile":
        paths += [str(text_file(path)) for path in paths]
    for path in paths:
        status = os.stat(path) if os.path.exists(path) else None
        digest.update(f"{path} {status and (status.st_size, status.st_mtime_ns)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _local_files(rows: Dataset, image_column: str) -> list[dict]:
    """Return the images and videos of rows that contain a path instead of the file's content."""
    if not len(rows) or any(file["bytes"] for file in files_of(rows[0][image_column])):
        return []
    return [file for value in rows[image_column] for file in files_of(value) if file["path"]]
