"""Caches on disk have no outdated, duplicate or incomplete entries."""

import json
import os
import pickle
import signal
import threading
import time
from collections import Counter

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.cache import DiskCache, MemoryCache, _open_shard, batched, fill_cache

IDENTITY = {"model": "a", "resolution": 16}


def entry(number: int) -> dict[str, torch.Tensor]:
    """Tensors of other lengths and kinds for each number."""
    return {
        "embeds": torch.full((2 + number % 3, 4), number, dtype=torch.bfloat16),
        "mask": torch.ones(2 + number % 3, dtype=torch.bool),
        "scale": torch.tensor(float(number)),
    }


def entries(*numbers: int) -> dict:
    return {f"key-{number}": entry(number) for number in numbers}


def batches(count: int, size: int) -> list[dict[str, int]]:
    return batched({f"key-{number}": number for number in range(count)}, size)


def assert_holds(cache, *numbers: int) -> None:
    for number in numbers:
        found, expected = cache[f"key-{number}"], entry(number)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("make", [lambda path: MemoryCache(), lambda path: DiskCache(path, IDENTITY)])
def test_gives_back_exactly_what_it_was_given(tmp_path, make):
    cache = make(tmp_path)
    cache.add(entries(*range(7)))
    cache.flush()
    assert_holds(cache, *range(7))
    assert "key-3" in cache and "key-7" not in cache


def test_a_later_run_finds_it_and_another_identity_does_not(tmp_path):
    cache = DiskCache(tmp_path, IDENTITY)
    cache.add(entries(1, 2))
    cache.flush()
    assert_holds(DiskCache(tmp_path, dict(reversed(IDENTITY.items()))), 1, 2)
    for change in ({"model": "b"}, {"resolution": 32}, {"dtype": "float16"}):
        assert "key-1" not in DiskCache(tmp_path, IDENTITY | change)
    assert json.loads((cache.directory / "identity.json").read_text()) == IDENTITY


def test_shards_are_written_when_they_are_full(tmp_path):
    cache = DiskCache(tmp_path, IDENTITY, shard_bytes=100)
    for number in range(20):
        cache.add(entries(number))
    written = len(list(cache.directory.glob("*.safetensors")))
    assert 3 < written < 20
    cache.flush()
    assert_holds(DiskCache(tmp_path, IDENTITY), *range(20))


def test_a_shard_is_opened_once_and_by_each_worker_for_itself(tmp_path):
    """Workers get the cache by pickling where they are not forked."""
    cache = DiskCache(tmp_path, IDENTITY, shard_bytes=100)
    for number in range(20):
        cache.add(entries(number))
    cache.flush()
    opened_before = _open_shard.cache_info().misses
    for _ in range(2):
        assert_holds(cache, *reversed(range(20)))
    assert _open_shard.cache_info().misses - opened_before == len(cache.names)
    assert_holds(pickle.loads(pickle.dumps(cache)), *range(20))


def test_a_broken_shard_is_named(tmp_path):
    cache = DiskCache(tmp_path, IDENTITY)
    cache.add(entries(1))
    cache.flush()
    shard = next(cache.directory.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(TwinFlowConfigError, match=f"cache_directory.*{shard.name}.*Delete"):
        DiskCache(tmp_path, IDENTITY)


def test_leftovers_are_removed_once_they_are_old(tmp_path):
    directory = DiskCache(tmp_path, IDENTITY).directory
    old, new = directory / "a.safetensors.1.unfinished", directory / "b.safetensors.2.unfinished"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    DiskCache(tmp_path, IDENTITY)
    assert not old.exists() and new.exists()


class Processes:
    """Several processes as threads, with what `fill_cache` asks of them."""

    def __init__(self, index: int, barrier: threading.Barrier):
        self.process_index, self.num_processes, self.is_local_main_process = index, barrier.parties, False
        self.wait_for_everyone = barrier.wait


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_work_and_each_finds_all_of_it(tmp_path, count):
    """Each process opens the cache only when the ones before it have written their part."""
    barrier, encoded, caches = threading.Barrier(count), Counter(), {}
    has_written = [threading.Event() for _ in range(count)]

    def work(index):
        def encode(own):
            for batch in own:
                encoded.update(batch.keys())
                yield {key: entry(number) for key, number in batch.items()}

        if index:
            has_written[index - 1].wait(60)
        cache = caches[index] = DiskCache(tmp_path, IDENTITY, shard_bytes=100)
        flush = cache.flush
        cache.flush = lambda: (flush(), has_written[index].set())
        fill_cache(cache, batches(20, 2), encode, processes=Processes(index, barrier), description="")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert encoded == Counter(f"key-{number}" for number in range(20))
    for cache in caches.values():
        assert_holds(cache, *range(20))


FILL = """
import sys
from accelerate import PartialState
from diffusers_twinflow.data.cache import DiskCache, fill_cache

from tests.data.test_cache import IDENTITY, batches, encode_large

cache = DiskCache(sys.argv[1], IDENTITY, shard_bytes=2**20)
fill_cache(cache, batches(60, 1), encode_large, processes=PartialState(cpu=True), description="")
"""


def encode_large(lacking):
    for batch in lacking:
        yield {key: {"latents": torch.full((2**19,), float(number))} for key, number in batch.items()}


def test_killed_while_writing_it_keeps_what_was_written_and_does_the_rest(start, tmp_path):
    """A file with its name is complete at any moment that another process may look."""
    run = start([tmp_path], code=FILL)
    seen, deadline = set(), time.monotonic() + 60
    while len(seen) < 20 and time.monotonic() < deadline:
        for path in set(tmp_path.glob("*/*.safetensors")) - seen:
            load_file(path)
            seen.add(path)
        time.sleep(0.001)
    os.kill(run.pids[0], signal.SIGKILL)
    assert run.wait() == [-signal.SIGKILL], run.outputs[0].read_text()[-2000:]
    assert len(seen) >= 20
    before = DiskCache(tmp_path, IDENTITY)
    kept = {number for number in range(60) if f"key-{number}" in before}
    assert 20 <= len(kept) < 60

    encoded = []

    def encode(lacking):
        encoded.extend(number for batch in lacking for number in batch.values())
        return encode_large(lacking)

    fill_cache(before, batches(60, 1), encode, processes=PartialState(), description="")
    assert sorted([*encoded, *kept]) == list(range(60))
    after = DiskCache(tmp_path, IDENTITY)
    assert all((after[f"key-{number}"]["latents"] == number).all() for number in range(60))
    keys = Counter(key for path in tmp_path.glob("*/*.safetensors") for key in load_file(path))
    assert len(keys) == 60 and set(keys.values()) == {1}
