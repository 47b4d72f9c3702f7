"""The two denoisers of a pipeline as one module. Each denoises the samples in its part of time."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..conditions import Condition, VelocityOf, take


class DenoisersByTime(nn.Module):
    """Holds a denoiser for high noise and one for low noise, as children with the names of the pipeline's components.

    A denoiser that no sample of a batch needs does not run. A jump belongs to the denoiser of the time where it starts,
    whatever its target time is.

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
        is_high = t >= self.boundary
        parts = [
            (denoiser, chosen.nonzero().flatten())
            for denoiser, chosen in zip(self.children(), (is_high, ~is_high), strict=True)
        ]
        for denoiser, indices in parts:
            if len(indices) == len(t) and not self.runs_both:
                return velocity_of(denoiser)(x_t, t, r, sign, condition)
        outputs = []
        for denoiser, indices in parts:
            some = indices if len(indices) else indices.new_zeros(1)
            times = [None if each is None else each[some] for each in (t, r, sign)]
            output = velocity_of(denoiser)(x_t[some], *times, take(condition, some))
            outputs.append(output[: len(indices)])
        order = torch.cat([indices for _, indices in parts])
        return torch.cat(outputs)[order.argsort()]


def denoisers_in(network: nn.Module) -> list[Any]:
    """Return the denoisers of a network: both of a `DenoisersByTime`, or else the network itself."""
    return list(network.children()) if isinstance(network, DenoisersByTime) else [network]
