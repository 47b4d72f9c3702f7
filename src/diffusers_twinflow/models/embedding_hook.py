"""How a vector gets into a stock forward: a hook on the timestep embedder, fed with the call in progress."""

import threading
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Additions:
    """What the forward in progress in one thread adds to its timestep embeddings.

    Every attribute is an instance attribute from the start: `torch.compile` guards on where an attribute is found.

    Attributes:
        conditioning: the module that made the additions.
        tensors: what the hooks add, or `None` for nothing.
        carrying_call: the call of an embedder within this forward that carries the timestep; `None` for every call.
        calls: how often each embedder was called so far.
        conditioning_name: the child of the model that makes the additions.
    """

    def __init__(self) -> None:
        self.conditioning: nn.Module | None = None
        self.tensors: tuple[torch.Tensor, ...] | None = None
        self.carrying_call: int | None = None
        self.calls: tuple[int, ...] = ()
        self.conditioning_name = "time_conditioning"

    def begin(self, conditioning: nn.Module, tensors: tuple[torch.Tensor, ...], carrying_call: int | None) -> None:
        self.conditioning, self.tensors, self.carrying_call = conditioning, tensors, carrying_call
        self.calls = (0,) * len(tensors)

    def end(self) -> None:
        self.conditioning = self.tensors = self.carrying_call = None
        self.calls = ()

    def for_call_of(self, index: int) -> tuple[torch.Tensor, ...] | None:
        """The tensors, if the present call of embedder number `index` carries the timestep of a forward with some."""
        if self.tensors is None:
            return None
        call = self.calls[index]
        self.calls = (*self.calls[:index], call + 1, *self.calls[index + 1 :])
        return self.tensors if self.carrying_call is None or call == self.carrying_call else None


class CallState(threading.local):
    """The `Additions` of the calling thread.

    `torch.compile` loses writes to a `threading.local` at a graph break, and reads a class attribute in place of the
    thread's own value. So this object is only read, and its attribute is set per thread in `__init__`.
    """

    def __init__(self) -> None:
        self.additions = Additions()

    def __deepcopy__(self, memo: dict[int, Any]) -> "CallState":
        return type(self)()

    def __reduce__(self) -> tuple[type["CallState"], tuple[()]]:
        return type(self), ()


class AddEmbedding:
    """Forward hook that adds the embedding of the call in progress to what embedder number `index` gives."""

    def __init__(self, state: CallState, index: int, *, rows: str, element: int | None) -> None:
        self.state = state
        self.index = index
        self.rows = rows
        self.element = element

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        tensors = self.state.additions.for_call_of(self.index)
        if tensors is None:
            return output
        embedding = tensors[self.index]
        if self.element is None:
            return add_rows(output, embedding, self.rows)
        changed = add_rows(output[self.element], embedding, self.rows)
        return (*output[: self.element], changed, *output[self.element + 1 :])


def add_rows(output: torch.Tensor, embedding: torch.Tensor, rows: str) -> torch.Tensor:
    """Add each sample's embedding to the rows that are its own.

    Args:
        output: shape [..., width], whose leading dimensions hold whole samples one after another.
        embedding: shape [B, width].
        rows: "repeat" where every row is some sample's, "first" where only the first B rows are.
    """
    embedding = embedding.to(output.device)
    flat = output.flatten(0, -2)
    count, batch = flat.shape[0], embedding.shape[0]
    if rows == "first":
        embedding = F.pad(embedding, (0, 0, 0, count - batch))
    elif count > batch:
        embedding = embedding.repeat_interleave(count // batch, dim=0, output_size=count)
    elif count < batch:
        return (output + embedding).to(output.dtype)
    return (output + embedding.view(output.shape)).to(output.dtype)
