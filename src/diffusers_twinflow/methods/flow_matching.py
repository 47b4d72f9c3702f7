"""Ordinary flow matching, the method if `twinflow_enabled` is false: the stock model with the usual loss."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from peft import LoraConfig
from torch import nn

from ..conditions import Condition, VelocityOf
from ..configuration import FlowMatchingConfig, TwinFlowConfig, TwinFlowConfigError
from ..flow import expand_time, interpolate, velocity
from ..models.known_times import known_times
from .base import LossOutput, Networks, Teacher
from .randomness import BLOCK, Purpose, draw_noise, draw_numbers


@dataclass
class FlowMatchingDraw:
    """The times `t` in [0, 1], shape [B], and the noise, shape [B, ...], of one micro-batch.

    `t_on_host` has the times too; it is `None` if the draw was made in another way.
    """

    t: torch.Tensor
    noise: torch.Tensor
    t_on_host: np.ndarray | None = None


class FlowMatching:
    """Trains with the mean squared error of the velocity, with diffusers' time densities and loss weightings.

    Args:
        options: density of the times and weighting of the loss.
        config: the TwinFlow options of the run, with `twinflow_enabled` false. Only `diff2flow_enabled` has an effect.

    Raises:
        TwinFlowConfigError: if `twinflow_enabled` or `twinflow_image_free` is true.

    Examples:
        >>> method = FlowMatching(FlowMatchingConfig("logit_normal"))
        >>> Trainer("stabilityai/stable-diffusion-3.5-medium", arguments, method).train()
    """

    name = "flow matching"
    use_ema = False
    branch_names: Sequence[str] = ()
    branch_cycle: Sequence[str] = ()
    part_names: Sequence[str] = ()
    needs_unconditional = False

    def __init__(self, options: FlowMatchingConfig | None = None, config: TwinFlowConfig | None = None) -> None:
        self.weighting, self.config = options or FlowMatchingConfig(), config or TwinFlowConfig()
        if self.config.twinflow_enabled:
            raise TwinFlowConfigError(
                "twinflow_enabled=true is not valid for FlowMatching: set it to false, or use the method TwinFlow."
            )
        if self.config.twinflow_image_free:
            raise TwinFlowConfigError(
                "twinflow_image_free=true is not valid without TwinFlow, because flow matching trains on images: set "
                "twinflow_enabled=true, or train on data with images."
            )

    def options(self) -> dict[str, Any]:
        return self.config.to_dict() | asdict(self.weighting)

    def add_teacher(self, transformer: nn.Module, lora_config: LoraConfig) -> None:
        """Do nothing, because flow matching has no teacher."""

    def copy_for_teacher(self, transformer: nn.Module) -> None:
        """Do nothing, because flow matching has no teacher."""

    def build_teacher(
        self, transformer: nn.Module, velocity_of: VelocityOf, copy: nn.Module | None = None
    ) -> Teacher | None:
        """Return `None`, because flow matching has no teacher."""
        return None

    def draw(
        self,
        positions: Sequence[int],
        latent_shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        passes_of: Sequence[int] | None = None,
    ) -> FlowMatchingDraw:
        """Draw times and noise for the samples at `positions` of the run. `passes_of` has no effect."""
        t = draw_numbers(positions, seed, self._block_of_times)
        noise = draw_noise(positions, latent_shape, seed=seed, purpose=Purpose.NOISE, device=device)
        return FlowMatchingDraw(torch.from_numpy(t).to(device, non_blocking=True), noise, t_on_host=t)

    def _block_of_times(self, block_seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(block_seed)
        weighting = self.weighting
        return compute_density_for_timestep_sampling(
            weighting.weighting_scheme,
            BLOCK,
            logit_mean=weighting.logit_mean,
            logit_std=weighting.logit_std,
            mode_scale=weighting.mode_scale,
            generator=generator,
        ).numpy()

    def loss(
        self, latents: torch.Tensor, condition: Condition, draw: FlowMatchingDraw, networks: Networks
    ) -> LossOutput:
        """Compute the weighted squared error of the velocity, for latents of shape [B, ...]."""
        x_t = interpolate(latents, draw.noise, draw.t)
        with known_times(draw.t_on_host):
            prediction = networks.student(x_t, draw.t, None, None, condition).float()
        weight = compute_loss_weighting_for_sd3(self.weighting.weighting_scheme, sigmas=expand_time(draw.t, x_t))
        if networks.weights is not None:
            weight = weight * networks.weights
        per_sample = (weight * (prediction - velocity(latents, draw.noise)).square()).flatten(1).mean(1)
        return LossOutput(loss=per_sample.mean(), per_sample=per_sample.detach())
