"""Tensors computed once: kept in memory, or on disk for the next run."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..configuration import TwinFlowConfigError
from ..writing import disk_errors, flush

Entry = dict[str, torch.Tensor]
Work = TypeVar("Work")

SHARD_BYTES = 64 * 2**20
OPEN_SHARDS = 64
SEPARATOR = "/"
ENDING = ".safetensors"
UNFINISHED = ".unfinished"
STALE_SECONDS = 3600
IDENTITY = "identity.json"


class TensorCache(Protocol):
    """Named tensors by key."""

    is_shared: bool

    def __contains__(self, key: str) -> bool: ...
    def __getitem__(self, key: str) -> Entry: ...
    def add(self, entries: dict[str, Entry]) -> None: ...
    def flush(self) -> None: ...
    def refresh(self) -> None: ...


class MemoryCache(dict):
    """A cache of this process alone."""

    is_shared = False

    def add(self, entries: dict[str, Entry]) -> None:
        self.update(entries)

    def flush(self) -> None:
        """Nothing to do."""

    def refresh(self) -> None:
        """Nothing to do."""


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: Path) -> safe_open:
    """A shard with its list of entries read, which takes far longer than to read an entry."""
    return safe_open(path, framework="pt")


class DiskCache:
    """A cache that all processes and later runs share: safetensors shards, each complete or not there.

    Args:
        directory: a folder for many caches.
        identity: everything besides the key that the tensors depend on, as plain JSON; another identity is another
            folder, so that nothing stale is ever read.
        shard_bytes: how much is gathered before a shard is written; a kill loses at most that.

    Raises:
        TwinFlowConfigError: where a shard is broken.
    """

    is_shared = True

    def __init__(self, directory: str | Path, identity: dict, shard_bytes: int = SHARD_BYTES) -> None:
        text = json.dumps(identity, indent=2, sort_keys=True)
        self.directory = Path(directory) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.shard_bytes = shard_bytes
        self.shard_of: dict[str, str] = {}
        self.names: dict[str, list[str]] = {}
        self.pending: dict[str, Entry] = {}
        self.directory.mkdir(parents=True, exist_ok=True)
        self._publish(IDENTITY, lambda path: path.write_text(text + "\n", encoding="utf-8"))
        self._remove_stale()
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self.shard_of

    def __getitem__(self, key: str) -> Entry:
        name_of_shard = self.shard_of[key]
        shard = _open_shard(self.directory / name_of_shard)
        return {name: shard.get_tensor(f"{key}{SEPARATOR}{name}") for name in self.names[name_of_shard]}

    def add(self, entries: dict[str, Entry]) -> None:
        """Take entries, each with the same names; they are on disk once their shard is full or `flush` is called."""
        self.pending |= entries
        if sum(tensor.nbytes for entry in self.pending.values() for tensor in entry.values()) >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self.pending:
            return
        tensors = {
            f"{key}{SEPARATOR}{name}": tensor.contiguous()
            for key, entry in self.pending.items()
            for name, tensor in entry.items()
        }
        name = hashlib.sha256("\n".join(sorted(self.pending)).encode()).hexdigest()[:32] + ENDING
        self._publish(name, lambda path: save_file(tensors, path))
        self._index(name)
        self.pending = {}

    def refresh(self) -> None:
        """Find what other processes and runs have written."""
        known = set(self.names)
        for path in sorted(self.directory.glob(f"*{ENDING}")):
            if path.name not in known:
                self._index(path.name)

    def _index(self, shard_name: str) -> None:
        path = self.directory / shard_name
        try:
            with safe_open(path, framework="pt") as shard:
                pairs = [key.rsplit(SEPARATOR, 1) for key in shard.keys()]  # noqa: SIM118
        except SafetensorError as error:
            raise TwinFlowConfigError(
                f"cache_directory: '{path}' is broken ({error}): delete that file, and what it held is encoded again."
            ) from error
        self.names[shard_name] = sorted({name for _, name in pairs})
        self.shard_of |= {key: shard_name for key, _ in pairs}

    def _publish(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file aside, and give it its name once it is complete."""
        aside = self.directory / f"{name}.{uuid4().hex}{UNFINISHED}"
        with disk_errors(self.directory / name):
            write(aside)
            flush(aside)
            os.replace(aside, self.directory / name)

    def _remove_stale(self) -> None:
        """Delete what killed runs left behind; a file of the last hour may be another run's work."""
        for path in self.directory.glob(f"*{UNFINISHED}"):
            if path.exists() and time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)


def fill_cache(
    cache: TensorCache,
    batches: Sequence[dict[str, Work]],
    encode: Callable[[list[dict[str, Work]]], Iterator[dict[str, Entry]]],
    *,
    processes: PartialState,
    description: str,
) -> None:
    """Encode what a cache lacks, with a progress bar; processes that share a cache share the work.

    Args:
        batches: all that the cache is to hold, work by key, the same in every process. Each batch belongs to one
            process, whatever the cache holds when that process looks.
        encode: takes batches and gives the entries of each.
    """
    own = batches[processes.process_index :: processes.num_processes] if cache.is_shared else batches
    lacking = [{key: work for key, work in batch.items() if key not in cache} for batch in own]
    lacking = [batch for batch in lacking if batch]
    progress = tqdm(encode(lacking), total=len(lacking), desc=description, disable=not processes.is_local_main_process)
    for entries in progress:
        cache.add(entries)
    cache.flush()
    processes.wait_for_everyone()
    cache.refresh()


def batched(work: dict[str, Work], batch_size: int) -> list[dict[str, Work]]:
    """Work by key in batches."""
    items = list(work.items())
    return [dict(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
