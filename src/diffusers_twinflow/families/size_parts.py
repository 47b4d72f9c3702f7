"""The parts of conditions that depend on the size of a sample and not on its prompt."""

from dataclasses import dataclass

import torch

from ..configuration import TwinFlowConfigError


@dataclass(frozen=True)
class PartOfSize:
    """The last columns of a condition, which depend on the size, after those that depend on the prompt.

    Attributes:
        start: number of columns that depend on the prompt.
        tail: the other columns, of batch 1.
    """

    start: int
    tail: torch.Tensor

    def put(self, condition: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor:
        """Return the condition at this size, of batch `count`, from the condition at another size."""
        tail = self.tail.to(device).expand(count, *self.tail.shape[1:])
        return tail if condition is None or not self.start else torch.cat([condition[..., : self.start], tail], -1)


def part_of_size(here: list[torch.Tensor], there: list[torch.Tensor | None], name: str) -> PartOfSize | None:
    """Find the part of a condition that depends on the size. `None` if there is none.

    Args:
        here: the condition at this size for several prompts, of batch 1 each.
        there: the same at another size.
        name: name of the condition, for messages.

    Raises:
        TwinFlowConfigError: if a part depends on the size and the prompt.
    """
    columns = {each.shape[-1] for each in here} | {-1 if each is None else each.shape[-1] for each in there}
    start = min(_shared_columns(mine, theirs) for mine, theirs in zip(here, there))
    if columns == {start}:
        return None
    tails = [each[..., start:] for each in here]
    if any(tail.shape != tails[0].shape or not torch.equal(tail, tails[0]) for tail in tails):
        raise TwinFlowConfigError(
            f"`{name}` depends on the prompt and the size, so samples of one run must have one size: leave out "
            "`aspect_ratio_buckets`."
        )
    return PartOfSize(start, tails[0])


def _shared_columns(first: torch.Tensor, second: torch.Tensor | None) -> int:
    """How many columns two tensors share before the first that differs."""
    if second is None or first.shape[:-1] != second.shape[:-1]:
        return 0
    count = min(first.shape[-1], second.shape[-1])
    differs = (first[..., :count] != second[..., :count]).flatten(0, -2).any(0).nonzero()
    return int(differs[0]) if len(differs) else count
