"""Decide which sample of the data is used at each position of a run."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Place(NamedTuple):
    """The index of a sample and its position in the run."""

    sample: int
    position: int


class RunSampler(Sampler[Place]):
    """Shuffles the data again for each epoch. The same position of a run always has the same sample.

    All samples of an optimizer step come from one bucket. No sample is dropped or repeated: samples that do not fill a
    step are used first in the bucket's next epoch.

    Args:
        bucket_of: bucket of each sample, shape [size], or the number of samples if there is a single bucket.
        seed: seed of the run.
        start, stop: positions to yield. A resumed run starts at the position of its checkpoint.
        group_size: number of samples per optimizer step, over all micro-batches and processes.
        batch_size, process_index, num_processes: positions are divided into blocks of `batch_size`, and this process
            gets every `num_processes`-th block.
    """

    def __init__(
        self,
        bucket_of: int | Sequence[int] | np.ndarray,
        seed: int,
        start: int,
        stop: int,
        *,
        group_size: int = 1,
        batch_size: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.bucket_of = np.zeros(bucket_of, dtype=int) if isinstance(bucket_of, int) else np.asarray(bucket_of)
        self.seed, self.start, self.stop, self.group_size = seed, start, stop, group_size
        self.batch_size, self.process_index, self.num_processes = batch_size, process_index, num_processes
        self.buckets, self.sizes = np.unique(self.bucket_of, return_counts=True)
        self._bucket_order = lru_cache(maxsize=4 * len(self.buckets))(self._order_bucket)
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        return max(0, self._own_before(self.stop) - self._own_before(self.start))

    def __iter__(self) -> Iterator[Place]:
        position = self.start
        for group in self._groups(self.start // self.group_size):
            for index in group[position % self.group_size :].tolist():
                if position >= self.stop:
                    return
                if self._is_own(position):
                    yield Place(index, position)
                position += 1

    def _is_own(self, position: int) -> bool:
        return position // self.batch_size % self.num_processes == self.process_index

    def _own_before(self, position: int) -> int:
        rounds, rest = divmod(position, self.batch_size * self.num_processes)
        started = min(max(rest - self.process_index * self.batch_size, 0), self.batch_size)
        return rounds * self.batch_size + started

    def _groups(self, number: int) -> Iterator[np.ndarray]:
        """Yield the sample indices of each group, starting with group `number`."""
        epoch = bisect_right(range(number * self.group_size + self.group_size), number, key=self._groups_before) - 1
        skipped = number - self._groups_before(epoch)
        while True:
            for bucket, place in self._epoch_groups(epoch)[skipped:]:
                yield self._group(bucket, place)
            epoch, skipped = epoch + 1, 0

    def _groups_before(self, epoch: int) -> int:
        """Return how many groups all buckets fill before an epoch."""
        return int((epoch * self.sizes // self.group_size).sum())

    def _epoch_groups(self, epoch: int) -> list[tuple[int, int]]:
        """Return the groups that are filled in an epoch, as bucket and number in the bucket, in shuffled order."""
        first, last = (turn * self.sizes // self.group_size for turn in (epoch, epoch + 1))
        labels = np.random.default_rng((self.seed, epoch, 2)).permutation(
            np.repeat(np.arange(len(self.sizes)), last - first)
        )
        following = first.copy()
        groups = []
        for bucket in labels.tolist():
            groups.append((bucket, int(following[bucket])))
            following[bucket] += 1
        return groups

    def _group(self, bucket: int, number: int) -> np.ndarray:
        """Return the samples of a bucket's group, taken from the concatenated epochs of the bucket."""
        size, parts = int(self.sizes[bucket]), []
        begin, end = number * self.group_size, (number + 1) * self.group_size
        while begin < end:
            epoch, offset = divmod(begin, size)
            part = self._bucket_order(epoch, bucket)[offset : offset + end - begin]
            parts.append(part)
            begin += len(part)
        return np.concatenate(parts)

    def _order_bucket(self, epoch: int, bucket: int) -> np.ndarray:
        shuffled = self._shuffled(epoch)
        return shuffled[self.bucket_of[shuffled] == self.buckets[bucket]]

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.bucket_of))
