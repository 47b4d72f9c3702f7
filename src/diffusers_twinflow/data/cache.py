"""Cache computed tensors in memory, or on disk for later runs."""

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
from ..writing import disk_errors, flush_file

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
    """A cache of named tensors by key."""

    is_shared: bool

    def __contains__(self, key: str) -> bool: ...
    def __getitem__(self, key: str) -> Entry: ...
    def add(self, entries: dict[str, Entry]) -> None: ...
    def flush(self) -> None: ...
    def refresh(self) -> None: ...


class MemoryCache(dict):
    """A cache in the memory of this process."""

    is_shared = False

    def add(self, entries: dict[str, Entry]) -> None:
        self.update(entries)

    def flush(self) -> None:
        """Do nothing."""

    def refresh(self) -> None:
        """Do nothing."""


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: Path) -> safe_open:
    """Open a shard and keep it open, because reading its list of entries takes much longer than reading an entry."""
    return safe_open(path, framework="pt")


class DiskCache:
    """A cache on disk that all processes and later runs share. It consists of safetensors shards, written atomically.

    Args:
        directory: folder for all caches.
        identity: everything besides the key that the tensors depend on, as plain JSON. Each identity has its own
            folder, so outdated tensors are never read.
        shard_bytes: number of bytes to collect before a shard is written. If the process is killed, at most this much
            is lost.

    Raises:
        TwinFlowConfigError: if a shard is damaged.
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
        """Add entries, which all have the same names. They are written when their shard is full or by `flush`."""
        self.pending |= entries
        if sum(tensor.nbytes for entry in self.pending.values() for tensor in entry.values()) >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write all entries that are not on disk yet."""
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
        """Find entries that other processes and runs have written."""
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
                f"cache_directory: '{path}' is damaged ({error}). Delete this file. Its contents are then encoded again."
            ) from error
        self.names[shard_name] = sorted({name for _, name in pairs})
        self.shard_of |= {key: shard_name for key, _ in pairs}

    def _publish(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file under a temporary name and rename it when it is complete."""
        aside = self.directory / f"{name}.{uuid4().hex}{UNFINISHED}"
        with disk_errors(self.directory / name):
            write(aside)
            flush_file(aside)
            os.replace(aside, self.directory / name)

    def _remove_stale(self) -> None:
        """Delete temporary files of killed runs. Files of the last hour are kept, because another run may write them."""
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
    """Encode the entries that a cache lacks, with a progress bar. Processes that share a cache share the work.

    Args:
        cache: cache to fill.
        batches: all entries that the cache must contain, as work by key. They are the same in every process, and each
            batch is assigned to one process.
        encode: takes batches and yields the entries of each batch.
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
    """Split work by key into batches."""
    items = list(work.items())
    return [dict(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
