"""Check all samples before training and find those that cannot be used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from datasets import (
    Dataset,
    Features,
    List,
    Value,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from datasets.config import HF_DATASETS_DISABLE_PROGRESS_BARS

from ..configuration import TwinFlowConfigError
from .captions import CaptionSource
from .clips import Clip, size_of
from .columns import files_state
from .images import content_hash, files_of, path_of, what_is_wrong
from .report import CORRUPT_IMAGES, FAULTS, MISSING_CAPTIONS, DataReport, Fault
from .sound import check_sound

FEATURES = Features(
    {
        "captions": List(Value("string")),
        "content": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        CORRUPT_IMAGES: Value("string"),
        MISSING_CAPTIONS: Value("string"),
        "name": Value("string"),
    }
)


@dataclass(frozen=True)
class CheckedRows:
    """The rows that can be used for training, in the order of the data.

    Attributes:
        rows: the data. Images are still encoded.
        facts: for each row, its captions, its image's size in pixels and the hash of its image's file.
        image_column, reference_image_column: columns of images, or `None` if they are not used.
        clip: part of each video to train on, if the images are videos.
    """

    rows: Dataset
    facts: Dataset
    image_column: str | None
    reference_image_column: str | None = None
    clip: Clip | None = None


def check_rows(
    rows: Dataset,
    captions: CaptionSource,
    image_column: str | None,
    report: DataReport,
    *,
    reference_image_column: str | None = None,
    clip: Clip | None = None,
    num_proc: int = 1,
    left_out: Sequence[Fault] = (),
) -> CheckedRows:
    """Decode every image and read every caption once, with a progress bar. `datasets` caches the result on disk.

    Args:
        image_column, reference_image_column: columns of images, or `None` if they are not used.
        clip: part of each video to decode, if the images are videos.
        report: receives the samples that cannot be used.
        num_proc: number of processes.
        left_out: files of the data that have no row, which are reported too.

    Returns:
        The rows that can be used.

    Raises:
        TwinFlowConfigError: if the report is set to stop at bad samples, or no sample can be used.
    """
    captions = captions.named_by(rows.features)
    with _shown_bar():
        facts = rows.map(
            describe,
            with_indices=True,
            fn_kwargs={
                "captions": captions,
                "image_column": image_column,
                "reference_image_column": reference_image_column,
                "clip": clip,
                "files": files_state(rows, image_column, captions),
            },
            remove_columns=rows.column_names,
            features=FEATURES,
            num_proc=num_proc if num_proc > 1 else None,
            desc="Checking samples",
        )
    good, faults = [], list(left_out)
    for index, fact in enumerate(facts.select_columns([CORRUPT_IMAGES, MISSING_CAPTIONS, "name"])):
        found = [Fault(kind, fact["name"], fact[kind]) for kind in (CORRUPT_IMAGES, MISSING_CAPTIONS) if fact[kind]]
        faults += found
        if not found:
            good.append(index)
    unlisted = sum(fault.kind in FAULTS for fault in left_out)
    report.totals = {"samples": len(rows) + unlisted, "trained_on": len(good)}
    report.add(faults)
    if not good:
        raise TwinFlowConfigError(
            f"no sample of the data can be used: {report.found()}. Repair the data, or choose another source of images or "
            "captions."
        )
    return CheckedRows(rows.select(good), facts.select(good), image_column, reference_image_column, clip)


@contextmanager
def _shown_bar() -> Iterator[None]:
    """Show the progress bar of `Dataset.map` inside the `with` block, because it is ours, while others may be hidden."""
    if not are_progress_bars_disabled() or HF_DATASETS_DISABLE_PROGRESS_BARS:
        yield
        return
    enable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()


def describe(
    row: dict,
    index: int,
    captions: CaptionSource,
    image_column: str | None,
    reference_image_column: str | None = None,
    clip: Clip | None = None,
    files: str = "",
) -> dict:
    """Return the facts of a row and its faults. `files` invalidates the cache of `datasets` when a file changes."""
    value = row[image_column] if image_column else None
    fact = {"content": None, "width": None, "height": None, CORRUPT_IMAGES: None}
    if image_column:
        fact |= _describe_image(value, clip)
    if reference_image_column and not fact[CORRUPT_IMAGES]:
        fact[CORRUPT_IMAGES] = _describe_image(row[reference_image_column]).get(CORRUPT_IMAGES)
    texts, fault = read_captions(row, captions)
    path = path_of(value)
    name = f"row {index}" + (f" ({path})" if path else "")
    return fact | {"captions": texts, MISSING_CAPTIONS: fault, "name": name}


def read_captions(row: dict, captions: CaptionSource) -> tuple[list[str], str | None]:
    """Return the captions of a row, and the reason if there are none."""
    try:
        texts = captions.candidates(row)
    except FileNotFoundError as error:
        return [], f"there is no file '{error.filename}'"
    except (OSError, ValueError) as error:
        return [], str(error)
    return texts, None if texts else f"no text ({captions.strategy})"


def _describe_image(value: dict | list | None, clip: Clip | None = None) -> dict:
    if value is None or not files_of(value):
        return {CORRUPT_IMAGES: "no image"}
    try:
        width, height = size_of(value, clip)
        check_sound(value, clip)
        return {"content": content_hash(value), "width": width, "height": height}
    except Exception as error:  # decoders can raise any error on damaged files; the report contains it
        return {CORRUPT_IMAGES: what_is_wrong(error)}
