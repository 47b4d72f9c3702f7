"""Assign the samples of a run to branches in a fixed rotation.

The branch depends only on the sample's position in the run, counted over optimizer steps, micro-batches and processes.
So the shares are right at any batch size, all processes agree, and a resumed run continues where it stopped.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import gcd

import numpy as np

from ...configuration import TwinFlowConfigError

RESOLUTION = 100


class BranchRotation:
    """Assigns a branch to each position of a run, by a repeating sequence.

    In any consecutive positions, the number of samples of a branch differs by at most one from its share (smooth
    weighted round robin).

    Args:
        shares: share of each branch by name. At least one must be above 0; they need not sum to 1.

    Attributes:
        names: the branches in the order of `shares`.
        cycle: branch names of the samples at positions 0, 1, ..., until they repeat.

    Raises:
        TwinFlowConfigError: if a share is negative, or none is above 0.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        if min(shares.values(), default=0) < 0 or not any(shares.values()):
            raise TwinFlowConfigError(
                f"The branch shares {dict(shares)} are not valid: at least one must be above 0, and none may be negative."
            )
        self.names = list(shares)
        weights = _integer_weights({name: share for name, share in shares.items() if share > 0})
        total = sum(weights.values())
        self.cycle: list[str] = []
        credit = dict.fromkeys(weights, 0)
        for _ in range(total):
            for name, weight in weights.items():
                credit[name] += weight
            chosen = max(credit, key=lambda name: credit[name])
            credit[chosen] -= total
            self.cycle.append(chosen)
        self.index_cycle = np.array([self.names.index(name) for name in self.cycle])

    def at(self, positions: Iterable[int]) -> list[str]:
        """Return the branch name of the sample at each position of the run."""
        return [self.cycle[position % len(self.cycle)] for position in positions]

    def indices_at(self, positions: Sequence[int]) -> np.ndarray:
        """Return the branch of each position as an index in `names`, shape [B]."""
        return self.index_cycle[np.asarray(positions, dtype=np.int64) % len(self.cycle)]


def _integer_weights(shares: dict[str, float]) -> dict[str, int]:
    """Round shares to hundredths of the largest, and return the smallest whole numbers in that proportion."""
    largest = max(shares.values())
    weights = {name: max(1, round(RESOLUTION * share / largest)) for name, share in shares.items()}
    common = gcd(*weights.values())
    return {name: weight // common for name, weight in weights.items()}
