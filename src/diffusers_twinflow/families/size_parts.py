"""The parts of conditions that depend on the size of a sample and not on its prompt."""

from dataclasses import dataclass

import torch

from ..configuration import TwinFlowConfigError


@dataclass(frozen=True)
class PartOfSize:
    """The last entries of a condition along a dimension, which depend on the size, after those that depend on the prompt.

    Attributes:
        start: number of entries that depend on the prompt.
        tail: the other entries, of batch 1.
        dim: the dimension, counted from the end.
    """

    start: int
    tail: torch.Tensor
    dim: int = -1

    def put(self, condition: torch.Tensor | None, count: int, device: torch.device | str) -> torch.Tensor:
        """Return the condition at this size, of batch `count`, from the condition at another size."""
        tail = self.tail.to(device).expand(count, *self.tail.shape[1:])
        if condition is None or not self.start:
            return tail
        return torch.cat([condition.narrow(self.dim, 0, self.start), tail], self.dim)


def part_of_size(here: list[torch.Tensor], there: list[torch.Tensor | None], name: str) -> PartOfSize | None:
    """Find the part of a condition that depends on the size. `None` if there is none.

    Args:
        here: the condition at this size for several prompts, of batch 1 each.
        there: the same at another size.
        name: name of the condition, for messages.

    Raises:
        TwinFlowConfigError: if a part depends on the size and the prompt.
    """
    if all(
        theirs is not None and mine.shape == theirs.shape and torch.equal(mine, theirs)
        for mine, theirs in zip(here, there)
    ):
        return None
    for dim in _growing(here[0], there[0]):
        start = min(_shared_entries(mine, theirs, dim) for mine, theirs in zip(here, there))
        tails = [each.narrow(dim, start, each.shape[dim] - start) for each in here]
        if all(tail.shape == tails[0].shape and torch.equal(tail, tails[0]) for tail in tails):
            return PartOfSize(start, tails[0], dim)
    raise TwinFlowConfigError(
        f"`{name}` depends on the prompt and the size, so samples of one run must have one size: leave out "
        "`aspect_ratio_buckets`."
    )


def _growing(here: torch.Tensor, there: torch.Tensor | None) -> list[int]:
    """The dimension in which a condition has another length at another size, or else the last one, from the end."""
    if there is None or here.ndim != there.ndim:
        return [-1]
    return [dim for dim in range(1 - here.ndim, 0) if here.shape[dim] != there.shape[dim]] or [-1]


def _shared_entries(first: torch.Tensor, second: torch.Tensor | None, dim: int) -> int:
    """How many entries along a dimension two tensors share before the first that differs."""
    if second is None or first.ndim != second.ndim:
        return 0
    mine, theirs = first.movedim(dim, 0), second.movedim(dim, 0)
    if mine.shape[1:] != theirs.shape[1:]:
        return 0
    count = min(len(mine), len(theirs))
    differs = (mine[:count] != theirs[:count]).flatten(1).any(1).nonzero()
    return int(differs[0]) if len(differs) else count
