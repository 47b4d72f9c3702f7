"""How a vector gets into a stock forward: a hook on the timestep embedder, fed with the call in progress."""

import threading

import torch
from torch import nn
from torch.nn import functional as F


class CallState(threading.local):
    """What the forward in progress adds to its timestep embeddings; each thread has its own.

    Attributes:
        conditioning: the module that made the additions.
        additions: what the hooks add, or `None` for nothing.
        carrying_call: the call of an embedder within this forward that carries the timestep; `None` for every one.
        calls: how often each embedder was called so far.
        conditioning_name: the child of the model that makes the additions.
    """

    conditioning: nn.Module | None = None
    additions: tuple[torch.Tensor, ...] | None = None
    carrying_call: int | None = None
    calls: tuple[int, ...] = ()
    conditioning_name: str = "time_conditioning"

    def begin(self, conditioning: nn.Module, additions: tuple[torch.Tensor, ...], carrying_call: int | None) -> None:
        self.conditioning, self.additions, self.carrying_call = conditioning, additions, carrying_call
        self.calls = (0,) * len(additions)

    def end(self) -> None:
        self.conditioning = self.additions = None

    def carries(self, index: int) -> bool:
        """Whether the present call of embedder number `index` carries the timestep of a forward with additions."""
        if self.additions is None:
            return False
        call = self.calls[index]
        self.calls = (*self.calls[:index], call + 1, *self.calls[index + 1 :])
        return self.carrying_call is None or call == self.carrying_call

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
        if not self.state.carries(self.index):
            return output
        embedding = self.state.additions[self.index]
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
