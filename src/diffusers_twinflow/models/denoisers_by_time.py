"""The two denoisers of a pipeline as one module. Each denoises the samples in its part of time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..conditions import Condition, VelocityOf, take
from .known_times import times_on_host


class DenoisersByTime(nn.Module):
    """Holds a denoiser for high noise and one for low noise, as children with the names of the pipeline's components.

    A denoiser that no sample of a batch needs does not run. A jump belongs to the denoiser of the time where it starts,
    whatever its target time is. Inside `known_times`, the split of a batch does not wait for the device.

    Args:
        denoisers: the two denoisers by component name, the one for high noise first.
        boundary: the lowest time of the first one, in [0, 1] with 1 at noise.

    Attributes:
        runs_both: run both denoisers on every batch, on one sample if none needs it, so that all processes make the same
            passes.
    """

    def __init__(self, denoisers: Mapping[str, ModelMixin], boundary: float) -> None:
        super().__init__()
        for name, denoiser in denoisers.items():
            self.add_module(name, denoiser)
        self.boundary = boundary
        self.runs_both = False
        self._no_split_modules = next(iter(denoisers.values()))._no_split_modules  # accelerate shards by it
        self.training = any(denoiser.training for denoiser in denoisers.values())

    def forward(
        self,
        velocity_of: VelocityOf,
        x_t: torch.Tensor,
        t: torch.Tensor,
        r: torch.Tensor | None,
        sign: torch.Tensor | None,
        condition: Condition,
    ) -> torch.Tensor:
        """Return the velocity of each sample, from the denoiser of its time.

        Args:
            velocity_of: wraps a denoiser in a velocity function, as `Family.velocity` does.
            x_t, t, r, sign, condition: as in a velocity function.
        """
        times = times_on_host(len(t))
        is_high = (t.cpu().numpy() if times is None else times) >= self.boundary
        counts = [int(is_high.sum()), int((~is_high).sum())]
        for denoiser, count in zip(self.children(), counts, strict=True):
            if count == len(t) and not self.runs_both:
                return velocity_of(denoiser)(x_t, t, r, sign, condition)
        order = np.argsort(~is_high, kind="stable")
        sent = torch.from_numpy(np.stack([order, order.argsort()])).to(t.device, non_blocking=True)
        outputs = []
        on_host = np.split(order, counts[:1])
        for denoiser, indices, known in zip(self.children(), sent[0].split(counts), on_host, strict=True):
            some = indices if len(indices) else indices.new_zeros(1)
            known = known if len(known) else np.zeros(1, dtype=np.int64)
            own_times = [None if each is None else each[some] for each in (t, r, sign)]
            output = velocity_of(denoiser)(x_t[some], *own_times, take(condition, some, known))
            outputs.append(output[: len(indices)])
        return torch.cat(outputs)[sent[1]]


def denoisers_in(network: nn.Module) -> list[Any]:
    """Return the denoisers of a network: both of a `DenoisersByTime`, or else the network itself."""
    return list(network.children()) if isinstance(network, DenoisersByTime) else [network]
