"""Give the samples of a run from data that is read during training."""

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from ..configuration import TwinFlowConfigError
from ..families.sound import SoundFormat
from .captions import CaptionSource
from .check import read_captions
from .clips import Clip, read
from .draws import SampleDraw
from .framing import Framing
from .images import content_hash, files_of, path_of, what_is_wrong
from .loader import can_pin_memory
from .report import CORRUPT_IMAGES, MISSING_CAPTIONS, DataReport, Fault
from .samples import collate
from .sound import sound_of

SHUFFLED_ROWS = 1000


class StreamedSamples(TorchIterableDataset):
    """Yields the samples of one process endlessly, epoch after epoch. Rows that cannot be used are skipped.

    A sample is a dictionary with `"caption"`, `"faults"` and, with images, `"pixels"` and sound as in `Samples`. Each epoch
    shuffles the files, and rows within a window. `state_dict` contains everything needed to continue exactly.

    Args:
        rows: the data. Images are still encoded.
        image_column, framing: column of images and how they are cropped, or `None` if images are not used.
        clip: part of each video to train on, if the images are videos.
        seed: seed of the run.
        shuffled_rows: number of rows that are shuffled together. As many encoded rows are in memory.

    Attributes:
        sound_format: the waveforms of the samples, if the model generates sound.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        captions: CaptionSource,
        image_column: str | None,
        framing: Framing | None,
        *,
        seed: int,
        clip: Clip | None = None,
        process_index: int = 0,
        num_processes: int = 1,
        shuffled_rows: int = SHUFFLED_ROWS,
    ) -> None:
        if framing is None and image_column is not None:
            raise ValueError("samples with images need `framing`, which says how the images are cropped: pass it.")
        self.rows = split_dataset_by_node(rows, process_index, num_processes)
        self.captions = captions.named_by(rows.features)
        self.image_column, self.framing, self.clip = image_column, framing, clip
        self.seed, self.process_index, self.shuffled_rows = seed, process_index, shuffled_rows
        self.sound_format: SoundFormat | None = None
        self.epoch = self.served = 0
        self._epoch_rows: datasets.IterableDataset | None = None
        self._resume_from: dict | None = None

    def state_dict(self) -> dict:
        if self._epoch_rows is None:
            return {}
        return {"epoch": self.epoch, "served": self.served, "rows": self._epoch_rows.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self._resume_from = state or None

    def __iter__(self) -> Iterator[dict]:
        resumed, self._resume_from = self._resume_from, None
        first_epoch, self.served = (resumed["epoch"], resumed["served"]) if resumed else (0, 0)
        faults: list[Fault] = []
        for self.epoch in count(first_epoch):
            self._epoch_rows = self._shuffle(self.epoch)
            rows = _go_on(self._epoch_rows, resumed["rows"]) if resumed else self._epoch_rows
            served_before = self.served
            for row in rows:
                sample, found = self._sample(row)
                faults += found
                if sample is not None:
                    self.served += 1
                    yield sample | {"faults": faults}
                    faults = []
            if self.served == served_before and not resumed:
                raise TwinFlowConfigError(f"no sample of the stream can be used: {_in_words(faults)}. Check the data.")
            resumed = None

    def _shuffle(self, epoch: int) -> datasets.IterableDataset:
        files_shuffled = self.rows.shuffle(seed=self.seed + epoch, buffer_size=1, max_buffer_input_shards=1)
        return files_shuffled.map(
            shuffle_together,
            with_indices=True,
            batched=True,
            batch_size=self.shuffled_rows,
            fn_kwargs={"seed": (self.seed, epoch)},
        )

    def _sample(self, row: dict) -> tuple[dict | None, list[Fault]]:
        value = row[self.image_column] if self.image_column else None
        texts, caption_fault = read_captions(row, self.captions)
        worker = get_worker_info()
        draw = SampleDraw.at(self.seed, self.process_index, worker.id if worker else 0, self.served)
        sample: dict[str, Any] = {}
        image_fault = None
        if self.framing is not None and self.image_column:
            try:
                if value is None:
                    raise ValueError("no image")
                image = read(value, self.clip)
                width, height = image[0].size if isinstance(image, list) else image.size
                sample["pixels"] = self.framing.pixels(image, self.framing.bucket_of(width, height), draw)
                if self.sound_format is not None:
                    sample |= sound_of(value, self.clip, self.sound_format)
            except Exception as error:  # decoders can raise any error on damaged files; the report contains it
                image_fault = what_is_wrong(error)
        found = [(CORRUPT_IMAGES, image_fault), (MISSING_CAPTIONS, caption_fault)]
        faults = [Fault(kind, row_name(row, value), reason) for kind, reason in found if reason]
        return (None if faults else sample | {"caption": self.captions.choose(texts, draw)}), faults


class StreamLoader:
    """Loads the batches of one process between two positions of the run.

    Args:
        samples: the stream.
        report: receives the samples that were skipped.
        first_position, last_position: as in `build_loader`.
        batch_size: number of samples per micro-batch and process.
        num_workers: number of processes that read. Each reads separate files, so at most one per file is used.
    """

    def __init__(
        self,
        samples: StreamedSamples,
        report: DataReport,
        *,
        first_position: int,
        last_position: int,
        batch_size: int,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
    ) -> None:
        self.report, self.batch_size, self.process_index = report, batch_size, process_index
        own_first = first_position + process_index * batch_size
        self.starts = range(own_first, last_position, batch_size * num_processes)
        self.num_processes, self.num_workers = num_processes, min(num_workers, samples.rows.num_shards)
        self.loader = StatefulDataLoader(
            samples,
            batch_size=batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=can_pin_memory(),
            generator=torch.Generator(),  # a separate one, so that the loader does not change training's random numbers
        )

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[dict]:
        batches = iter(self.loader)
        for start in self.starts:
            batch = next(batches)
            self.report.add([fault for faults in batch.pop("faults") for fault in faults])
            yield batch | {"position": list(range(start, start + self.batch_size))}

    def save(self, directory: str | Path) -> None:
        """Save the state of the stream in a checkpoint."""
        state = {**self._layout(), "loader": self.loader.state_dict()}
        self._path(directory).write_text(json.dumps(state), encoding="utf-8")

    def load(self, directory: str | Path) -> None:
        """Load the state of the stream from a checkpoint.

        Raises:
            TwinFlowConfigError: if the number of processes or workers differs from the run that wrote the checkpoint.
        """
        path = self._path(directory)
        state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        saved = {name: state.get(name) for name in self._layout()}
        if saved != self._layout():
            raise TwinFlowConfigError(
                f"a stream can only be resumed with the same processes and workers: '{directory}' was written with "
                f"{_in_words(saved.items())}, this run has {_in_words(self._layout().items())}. Use the same numbers."
            )
        self.loader.load_state_dict(state["loader"])

    def _layout(self) -> dict[str, int]:
        return {
            "num_processes": self.num_processes,
            "dataloader_num_workers": self.num_workers,
            "train_batch_size": self.batch_size,
        }

    def _path(self, directory: str | Path) -> Path:
        return Path(directory) / f"stream-{self.process_index}.json"


def shuffle_together(rows: dict[str, list], indices: list[int], seed: tuple[int, ...]) -> dict[str, list]:
    """Shuffle a batch of rows. The order depends on the seed and on the first index of the batch."""
    order = np.random.default_rng((*seed, indices[0])).permutation(len(indices))
    return {name: [values[place] for place in order] for name, values in rows.items()}


def row_name(row: dict, value: dict | list | None) -> str:
    """Return a name for a row of a stream: its key, its image's path, or a hash of its image."""
    if "__key__" in row:
        return f"{row['__key__']} in {row['__url__']}"
    path = path_of(value)
    if path:
        return path
    if value is not None and files_of(value):
        return f"image with sha256 {content_hash(value)}"
    return "row " + json.dumps(row, default=str, sort_keys=True)


def _go_on(rows: datasets.IterableDataset, state: dict) -> Iterator[dict]:
    """Yield the rows after `state` without the warning that the shuffle buffer is lost, which is empty here."""
    rows.load_state_dict(state)
    iterator = iter(rows)
    logger = logging.getLogger("datasets.iterable_dataset")
    logger.addFilter(_is_no_buffer_warning)
    try:
        first = list(islice(iterator, 1))
    finally:
        logger.removeFilter(_is_no_buffer_warning)
    yield from chain(first, iterator)


def _is_no_buffer_warning(record: logging.LogRecord) -> bool:
    return "shuffle buffer" not in record.getMessage()


def _in_words(parts: Iterable[Iterable[object]]) -> str:
    return ", ".join(" ".join(map(str, part)) for part in parts) or "no rows"
