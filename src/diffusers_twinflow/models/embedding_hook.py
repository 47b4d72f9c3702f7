"""Hooks that add an embedding to the output of a stock transformer's timestep embedder during a forward."""

import threading
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Additions:
    """The tensors that the current forward of one thread adds to its timestep embeddings.

    Every attribute is set in `__init__`, because `torch.compile` guards on where an attribute is found.

    Attributes:
        conditioning: the module that computed the additions.
        tensors: the tensors to add, one per embedder; `None` to add nothing.
        carrying_call: which call of an embedder within this forward carries the timestep; `None` for every call.
        calls: how often each embedder was called so far.
        conditioning_name: name of the model's child that computes the additions.
    """

    def __init__(self) -> None:
        self.conditioning: nn.Module | None = None
        self.tensors: tuple[torch.Tensor, ...] | None = None
        self.carrying_call: int | None = None
        self.calls: tuple[int, ...] = ()
        self.conditioning_name = "time_conditioning"

    def begin(self, conditioning: nn.Module, tensors: tuple[torch.Tensor, ...], carrying_call: int | None) -> None:
        """Start a forward with these additions."""
        self.conditioning, self.tensors, self.carrying_call = conditioning, tensors, carrying_call
        self.calls = (0,) * len(tensors)

    def end(self) -> None:
        """End the forward, after which nothing is added."""
        self.conditioning = self.tensors = self.carrying_call = None
        self.calls = ()

    def for_call_of(self, index: int) -> tuple[torch.Tensor, ...] | None:
        """Count a call of embedder number `index`, and return the tensors if this call carries the timestep."""
        if self.tensors is None:
            return None
        call = self.calls[index]
        self.calls = (*self.calls[:index], call + 1, *self.calls[index + 1 :])
        return self.tensors if self.carrying_call is None or call == self.carrying_call else None


class CallState(threading.local):
    """Stores the `Additions` of the calling thread.

    `torch.compile` loses writes to a `threading.local` at a graph break, and it reads a class attribute instead of the
    value of the thread. So this object is only read, and `__init__` sets its attribute in each thread.
    """

    def __init__(self) -> None:
        self.additions = Additions()

    def __deepcopy__(self, memo: dict[int, Any]) -> "CallState":
        return type(self)()

    def __reduce__(self) -> tuple[type["CallState"], tuple[()]]:
        return type(self), ()


class AddEmbedding:
    """Forward hook that adds the embedding of the current forward to the output of embedder number `index`."""

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
    """Add each sample's embedding to the rows of that sample.

    Args:
        output: shape [..., width]. The leading dimensions contain whole samples one after another.
        embedding: shape [B, width].
        rows: "repeat" if every row belongs to a sample, "first" if only the first B rows do.

    Returns:
        Tensor of the shape and dtype of `output`.
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
