"""Which sample of the data stands at each position of a run."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class RunSampler(Sampler[int]):
    """Shuffles the data anew each epoch; a position of the run always holds the same sample.

    Args:
        size: number of samples of the data.
        seed: seed of the run.
        start, stop: the positions to give; a resumed run starts where it stopped.
    """

    def __init__(self, size: int, seed: int, start: int, stop: int):
        self.size, self.seed, self.start, self.stop = size, seed, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while position < self.stop:
            epoch, offset = divmod(position, self.size)
            shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.size)
            part = shuffled[offset : offset + self.stop - position].tolist()
            yield from part
            position += len(part)
