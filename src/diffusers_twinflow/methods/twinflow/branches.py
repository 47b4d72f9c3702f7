"""Which branch of TwinFlow trains a sample: a fixed rotation over the samples of a run.

The branch depends only on the sample's position in the run (counted over optimizer steps, micro-batches and
processes), so the shares hold at any batch size, every process agrees, and a resumed run goes on where it stopped.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from math import gcd

import numpy as np

RESOLUTION = 100


class Branch(str, Enum):
    ONE_STEP = "one_step"
    FEW_STEP = "few_step"
    ANY_STEP = "any_step"
    MULTI_STEP = "multi_step"
    ADVERSARIAL = "adversarial"


BRANCHES = list(Branch)


class BranchRotation:
    """The repeating sequence of branches in which each has its share.

    Any run of consecutive positions holds every branch within one sample of its share (smooth weighted round robin).

    Args:
        shares: share of each branch by name, at least one above 0; they need not sum to 1.
    """

    def __init__(self, shares: dict[str, float]):
        weights = _integer_weights({Branch(name): share for name, share in shares.items() if share > 0})
        total = sum(weights.values())
        self.fractions = {branch: weight / total for branch, weight in weights.items()}
        self.cycle: list[Branch] = []
        credit = dict.fromkeys(weights, 0)
        for _ in range(total):
            for branch, weight in weights.items():
                credit[branch] += weight
            chosen = max(credit, key=credit.get)
            credit[chosen] -= total
            self.cycle.append(chosen)
        self.index_cycle = np.array([BRANCHES.index(branch) for branch in self.cycle])

    def fraction(self, branch: Branch) -> float:
        """The part of all samples that `branch` trains, in [0, 1]."""
        return self.fractions.get(branch, 0.0)

    def at(self, positions: Iterable[int]) -> list[Branch]:
        """The branch of the sample at each position of the run."""
        return [self.cycle[position % len(self.cycle)] for position in positions]

    def indices_at(self, positions: Sequence[int]) -> np.ndarray:
        """The same as indices in `BRANCHES`, shape [B]."""
        return self.index_cycle[np.asarray(positions, dtype=np.int64) % len(self.cycle)]


def _integer_weights(shares: dict[Branch, float]) -> dict[Branch, int]:
    """Shares to the nearest hundredth of the largest, as the smallest whole numbers in that proportion."""
    largest = max(shares.values())
    weights = {branch: max(1, round(RESOLUTION * share / largest)) for branch, share in shares.items()}
    common = gcd(*weights.values())
    return {branch: weight // common for branch, weight in weights.items()}
