"""How a vector gets into a stock forward: a hook on the timestep embedder, fed with the call in progress."""

import threading

import torch
from torch import nn
from torch.nn import functional as F


class CallState(threading.local):
    """What the forward in progress adds to its timestep embeddings; each thread has its own.

    Attributes:
        embeddings: one tensor of shape [B, width] an embedder, or `None` for nothing.
        carrying_call: the call of an embedder within this forward that carries the timestep; `None` for every one.
        calls: how often each embedder was called so far.
        conditioning_name: the child of the model that makes the embeddings.
    """

    embeddings: tuple[torch.Tensor, ...] | None = None
    carrying_call: int | None = None
    calls: tuple[int, ...] = ()
    conditioning_name: str = "time_conditioning"

    def begin(self, embeddings: tuple[torch.Tensor, ...], carrying_call: int | None) -> None:
        self.embeddings, self.carrying_call = embeddings, carrying_call
        self.calls = (0,) * len(embeddings)

    def end(self) -> None:
        self.embeddings = None

    def count_call(self, index: int) -> int:
        """Number of the present call of an embedder, from 0."""
        call = self.calls[index]
        self.calls = (*self.calls[:index], call + 1, *self.calls[index + 1 :])
        return call

    def __deepcopy__(self, memo):
        return type(self)()

    def __reduce__(self):
        return type(self), ()


class AddEmbedding:
    """Forward hook that adds the embedding of the call in progress to what embedder number `index` gives."""

    def __init__(self, state: CallState, index: int, *, rows: str, element: int | None):
        self.state = state
        self.index = index
        self.rows = rows
        self.element = element

    def __call__(self, module: nn.Module, args, output):
        state = self.state
        if state.embeddings is None:
            return output
        if state.carrying_call is not None and state.count_call(self.index) != state.carrying_call:
            return output
        embedding = state.embeddings[self.index]
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
    embedding = embedding.to(output)
    flat = output.flatten(0, -2)
    count, batch = flat.shape[0], embedding.shape[0]
    if rows == "first":
        embedding = F.pad(embedding, (0, 0, 0, count - batch))
    elif count > batch:
        embedding = embedding.repeat_interleave(count // batch, dim=0, output_size=count)
    elif count < batch:
        return output + embedding
    return output + embedding.view(output.shape)
