"""Ordinary flow matching, for `twinflow_enabled` false: the stock model, the stock loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from ..conditions import Condition, VelocityFunction
from ..flow import expand_time, interpolate, velocity
from .base import LossOutput
from .randomness import BLOCK, Purpose, draw_noise, draw_numbers


@dataclass
class FlowMatchingDraw:
    """Times in [0, 1], shape [B], and noise, shape [B, ...], of one micro-batch."""

    t: torch.Tensor
    noise: torch.Tensor


class FlowMatchingObjective:
    """Mean squared error of the velocity, with diffusers' densities and weightings of the time.

    Args:
        weighting_scheme: one of `WEIGHTINGS`, as diffusers' scripts name them.
        logit_mean, logit_std: of the logit-normal density.
        mode_scale: of the mode density.
    """

    def __init__(self, weighting_scheme: str = "none", logit_mean=0.0, logit_std=1.0, mode_scale=1.29):
        self.weighting_scheme = weighting_scheme
        self.density = {"logit_mean": logit_mean, "logit_std": logit_std, "mode_scale": mode_scale}

    def draw(self, positions: Sequence[int], latent_shape: Sequence[int], *, seed: int, device) -> FlowMatchingDraw:
        """Draw for the samples at `positions` of the run."""
        t = torch.from_numpy(draw_numbers(positions, seed, self._block_of_times))
        noise = draw_noise(positions, latent_shape, seed=seed, purpose=Purpose.NOISE, device=device)
        return FlowMatchingDraw(t=t.to(device, non_blocking=True), noise=noise)

    def _block_of_times(self, block_seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(block_seed)
        density = compute_density_for_timestep_sampling
        return density(self.weighting_scheme, BLOCK, generator=generator, **self.density).numpy()

    def __call__(
        self, latents: torch.Tensor, condition: Condition, draw: FlowMatchingDraw, *, student: VelocityFunction
    ) -> LossOutput:
        x_t = interpolate(latents, draw.noise, draw.t)
        prediction = student(x_t, draw.t, None, None, condition).float()
        weight = compute_loss_weighting_for_sd3(self.weighting_scheme, sigmas=expand_time(draw.t, x_t))
        per_sample = (weight * (prediction - velocity(latents, draw.noise)).square()).flatten(1).mean(1)
        return LossOutput(loss=per_sample.mean(), per_sample=per_sample.detach())
