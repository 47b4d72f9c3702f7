"""Values in nested lists, tuples and dictionaries, such as the arguments of a model's call."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Group:
    """A list, tuple or dictionary, taken apart.

    Attributes:
        kind: its class.
        entries: what it contains, by index or key.
    """

    kind: type
    entries: dict[Any, Any]

    @classmethod
    def of(cls, value: Any) -> "Group | None":
        """Take a value apart. Returns `None` if it is no list, tuple or dictionary."""
        if isinstance(value, dict):
            return cls(type(value), dict(value))
        return cls(type(value), dict(enumerate(value))) if isinstance(value, (list, tuple)) else None

    def map(self, function: Callable[[Any, Any], Any]) -> "Group":
        """Return a group of the results of `function(index or key, entry)`."""
        return Group(self.kind, {key: function(key, entry) for key, entry in self.entries.items()})

    def build(self) -> Any:
        """Return the list, tuple or dictionary. Dictionaries of all classes become a `dict`."""
        if issubclass(self.kind, dict):
            return dict(self.entries)
        make: Callable[[list[Any]], Any] = getattr(self.kind, "_make", self.kind)  # of a named tuple
        return make(list(self.entries.values()))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Iterate over all tensors in a value."""
    if isinstance(value, torch.Tensor):
        yield value
    elif (group := Group.of(value)) is not None:
        for entry in group.entries.values():
            yield from tensors(entry)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a copy of a value with the results of a function instead of what its lists, tuples and dictionaries contain."""
    group = Group.of(value)
    return function(value) if group is None else group.map(lambda _, entry: map_leaves(function, entry)).build()


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Return a copy of a value with the results of a function instead of its tensors, in the order of `tensors`."""
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, torch.Tensor) else leaf, value)
