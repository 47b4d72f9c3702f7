import json
import pickle
from collections import Counter
from itertools import islice

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.captions import CaptionSource
from diffusers_twinflow.data.columns import keep_encoded
from diffusers_twinflow.data.framing import Framing
from diffusers_twinflow.data.report import DataReport
from diffusers_twinflow.data.rows import load_rows
from diffusers_twinflow.data.stream import StreamedSamples, StreamLoader

ROWS = 24


@pytest.fixture
def build(files, cache_dir, tmp_path):
    """A loader of one process over 24 rows in 4 files."""
    paths = files.parquet(ROWS, files=4)

    def loader(data_files=None, first=0, last=10**6, batch_size=2, process=0, processes=1, workers=0, **options):
        captions = CaptionSource(dropout_probability=options.pop("dropout", 0.0))
        rows = load_rows(data_files=data_files or paths, cache_dir=cache_dir, streaming=True)
        samples = StreamedSamples(
            keep_encoded(rows, "image", captions),
            captions,
            "image",
            Framing(((12, 12),), center_crop=False, random_flip=True),
            seed=0,
            process_index=process,
            num_processes=processes,
            shuffled_rows=4,
        )
        return StreamLoader(
            samples,
            DataReport(tmp_path / f"report-{process}.json"),
            first_position=first,
            last_position=last,
            batch_size=batch_size,
            process_index=process,
            num_processes=processes,
            num_workers=workers,
        )

    return loader


def take(loader, count: int) -> list[dict]:
    return [batch for batch, _ in zip(loader, range(count))]


def captions_of(batches) -> list[str]:
    return [caption for batch in batches for caption in batch["caption"]]


def same(one, two) -> bool:
    return all(
        a["position"] == b["position"] and a["caption"] == b["caption"] and torch.equal(a["pixels"], b["pixels"])
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_row_once_over_all_processes_and_workers(build, processes, workers):
    found, positions = [], []
    for process in range(processes):
        own = ROWS // processes
        batches = take(build(process=process, processes=processes, workers=workers, batch_size=1), own)
        found += captions_of(batches)
        positions += [position for batch in batches for position in batch["position"]]
    assert sorted(found) == sorted(f"caption {i}" for i in range(ROWS))
    assert sorted(positions) == list(range(ROWS))


def test_epochs_are_shuffled_anew(build):
    captions = captions_of(take(build(), 24))
    first, second = captions[:ROWS], captions[ROWS:]
    assert sorted(first) == sorted(second) and first != second
    assert first != [f"caption {i}" for i in range(ROWS)]


def test_epochs_take_the_files_in_another_order(build):
    rows_of_a_file = ROWS // 4
    numbers = [int(caption.split()[1]) // rows_of_a_file for caption in captions_of(take(build(), 48))]
    epochs = [tuple(dict.fromkeys(numbers[start : start + ROWS])) for start in range(0, len(numbers), ROWS)]
    assert len(set(epochs)) > 1


@pytest.mark.parametrize(
    ("workers", "stop"),
    [
        *((0, stop) for stop in (1, 7, 12, 19)),
        (2, 7),
        *(pytest.param(2, stop, marks=pytest.mark.slow) for stop in (1, 12, 19)),
    ],
)
def test_a_stream_goes_on_exactly_where_it_was_saved(build, tmp_path, workers, stop):
    whole = take(build(workers=workers, dropout=0.3), 25)
    before = build(workers=workers, dropout=0.3)
    iterator = iter(before)
    first = [next(iterator) for _ in range(stop)]
    before.save(tmp_path)
    after = build(workers=workers, dropout=0.3, first=2 * stop)
    after.load(tmp_path)
    assert same(whole, first + take(after, 25 - stop))


def test_faulty_rows_are_left_out_counted_once_and_named(build, files, tmp_path):
    folder = files.folder(8, captions=[f"caption {i}" if i != 3 else None for i in range(8)])
    (folder / "2.png").write_bytes(b"no picture")
    rows = load_rows(instance_data_dir=str(folder), streaming=True)
    loader = build()
    loader.loader.dataset.rows = keep_encoded(rows, "image", CaptionSource())
    captions = captions_of(take(loader, 9))
    assert Counter(captions) == {f"caption {i}": 3 for i in (0, 1, 4, 5, 6, 7)}
    report = json.loads((tmp_path / "report-0.json").read_text())
    assert [*report["corrupt_images"]["samples"]] == [str(folder / "2.png")]
    assert [*report["missing_captions"]["samples"]] == [str(folder / "3.jpg")]


def test_a_stream_of_nothing_but_faults_ends_with_an_error(build, files):
    with pytest.raises(TwinFlowConfigError, match="no sample of the stream.*missing_captions"):
        take(build(files.parquet(4, text=[None] * 4)), 1)


def test_another_layout_cannot_go_on(build, tmp_path):
    loader = build(batch_size=2)
    take(loader, 1)
    loader.save(tmp_path)
    with pytest.raises(TwinFlowConfigError, match="train_batch_size 2.*train_batch_size 4"):
        build(batch_size=4).load(tmp_path)
    with pytest.raises(TwinFlowConfigError, match="num_processes"):
        build(process=1, processes=2).load(tmp_path)


def test_there_are_never_more_workers_than_files(build):
    assert build(workers=9).num_workers == 4
    assert build(workers=9, processes=2).num_workers == 2


def test_a_stream_can_be_sent_to_workers_that_are_not_forked(build):
    """On macOS, on Windows and from Python 3.14 on, worker processes get a pickled copy."""
    samples = build().loader.dataset
    copy = pickle.loads(pickle.dumps(samples))
    pairs = list(zip(islice(samples, ROWS), islice(copy, ROWS), strict=True))
    assert len(pairs) == ROWS
    assert all(one["caption"] == two["caption"] and torch.equal(one["pixels"], two["pixels"]) for one, two in pairs)
