"""The exact bridge between a variance-preserving diffusion network and the linear flow, as pure functions.

A diffusion point is `sqrt(alpha_bar) * x + sqrt(1 - alpha_bar) * z`, a flow point `(1 - sigma) * x + sigma * z`, of the
same data `x` and noise `z`. Both stand at the same signal-to-noise ratio where

    sigma = sqrt(1 - alpha_bar) / (sqrt(alpha_bar) + sqrt(1 - alpha_bar))

and there the flow point is the diffusion point times `flow_scale(sigma)`. So the scale depends on sigma alone; the noise
schedule only says at which timestep the network knows that sigma.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import DDPMScheduler

from .flow import expand_time

DIFFUSION_PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SCHEDULE_OPTIONS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
SMALLEST_ALPHA_BAR = 2.0**-24  # what diffusers' schedulers take in place of zero terminal SNR


def sigma_of_alpha_bar(alpha_bar: torch.Tensor) -> torch.Tensor:
    """The flow's sigma, in [0, 1], at the signal-to-noise ratio of `alpha_bar`, in [0, 1]."""
    noise = (1 - alpha_bar).sqrt()
    return noise / (alpha_bar.sqrt() + noise)


def flow_scale(sigma: torch.Tensor) -> torch.Tensor:
    """What a diffusion point is multiplied with to be the flow point at `sigma`: from 1 at both ends to 0.71 between."""
    return torch.hypot(sigma, 1 - sigma)


def signal_and_noise(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`sqrt(alpha_bar)` and `sqrt(1 - alpha_bar)` of the diffusion point at `sigma`."""
    scale = flow_scale(sigma)
    return (1 - sigma) / scale, sigma / scale


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Which timestep of a diffusion network has which sigma of the flow.

    Between two timesteps the log-SNR is linear in the timestep. The network knows no sigma below `sigma_min`, its
    timestep 0, nor above `sigma_max`, its last timestep, which for most schedules still holds some signal.

    Attributes:
        alphas_cumprod: `alpha_bar` of every timestep, shape [T], falling, in (0, 1), float64.

    Raises:
        ValueError: where `alphas_cumprod` does not fall, or does not go from mostly signal to mostly noise.
    """

    alphas_cumprod: torch.Tensor

    def __post_init__(self) -> None:
        alpha_bar = self.alphas_cumprod
        if not (0 < alpha_bar[-1] < 0.5 < alpha_bar[0] < 1 and (alpha_bar.diff() < 0).all()):
            raise ValueError(
                f"alphas_cumprod goes from {alpha_bar[0].item():.4g} to {alpha_bar[-1].item():.4g}: it must fall at "
                "every timestep, from above 0.5 to below 0.5. Check beta_start, beta_end and beta_schedule."
            )

    @classmethod
    def from_config(cls, config: Mapping) -> "NoiseSchedule":
        """The schedule of a diffusers scheduler's config, whichever diffusion scheduler that is.

        Args:
            config: holds `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule`, `trained_betas` and
                `rescale_betas_zero_snr`; what it lacks is as in `DDPMScheduler`.
        """
        options = {name: config[name] for name in SCHEDULE_OPTIONS if config.get(name) is not None}
        alpha_bar = DDPMScheduler(**options).alphas_cumprod.double()
        return cls(alpha_bar.clamp_min(SMALLEST_ALPHA_BAR) if options.get("rescale_betas_zero_snr") else alpha_bar)

    @cached_property
    def log_snr(self) -> torch.Tensor:
        """`log(sqrt(alpha_bar) / sqrt(1 - alpha_bar))` of every timestep, shape [T], falling."""
        return 0.5 * torch.logit(self.alphas_cumprod)

    @cached_property
    def sigma_min(self) -> float:
        return sigma_of_alpha_bar(self.alphas_cumprod[0]).item()

    @cached_property
    def sigma_max(self) -> float:
        return sigma_of_alpha_bar(self.alphas_cumprod[-1]).item()

    @cached_property
    def _log_snr_copies(self) -> dict[tuple[torch.device, torch.dtype], torch.Tensor]:
        return {}

    def _log_snr_like(self, times: torch.Tensor) -> torch.Tensor:
        """`log_snr` where the times are, copied there once: a copy in every step would stop the host."""
        key = times.device, times.dtype
        if key not in self._log_snr_copies:
            self._log_snr_copies[key] = self.log_snr.to(times)
        return self._log_snr_copies[key]

    def timestep_of(self, sigma: torch.Tensor) -> torch.Tensor:
        """The network's timestep, in [0, T - 1] and not a whole number, that has this sigma or the nearest it knows."""
        falling = self._log_snr_like(sigma)
        log_snr = torch.minimum(torch.maximum(-torch.logit(sigma), falling[-1]), falling[0])
        above = torch.searchsorted(-falling, -log_snr.contiguous()).clamp(1, len(falling) - 1)
        start, end = falling[above - 1], falling[above]
        return above - 1 + (log_snr - start) / (end - start)

    def sigma_of(self, timestep: torch.Tensor) -> torch.Tensor:
        """The inverse of `timestep_of`, for timesteps in [0, T - 1]."""
        below = timestep.floor().long().clamp(0, len(self.log_snr) - 2)
        falling = self._log_snr_like(timestep)
        return torch.sigmoid(-torch.lerp(falling[below], falling[below + 1], timestep - below))


@dataclass(frozen=True, eq=False)
class Diff2Flow:
    """A diffusion network as a velocity of the linear flow, and back.

    Within `[sigma_min, sigma_max]` the conversion is exact. Outside, the network is evaluated at the nearest timestep
    it knows, on the point scaled as everywhere. Above `sigma_max` its prediction of the data is kept and the velocity
    points there from where the sample stands, `(x_t - x_hat) / sigma`; below `sigma_min` its prediction of the noise
    is kept, `(z_hat - x_t) / (1 - sigma)`. Both are continuous at their ends and finite at sigma 0 and 1.

    Attributes:
        schedule: of the network.
        prediction_type: "epsilon", "v_prediction" or "sample".

    Raises:
        ValueError: for another prediction type.
    """

    schedule: NoiseSchedule
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in DIFFUSION_PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type={self.prediction_type!r} must be one of {', '.join(DIFFUSION_PREDICTION_TYPES)}."
            )

    @classmethod
    def from_config(cls, config: Mapping) -> "Diff2Flow":
        """The bridge for the network that a diffusers scheduler with this config samples from."""
        return cls(NoiseSchedule.from_config(config), config.get("prediction_type", "epsilon"))

    def network_input(self, x_t: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The flow point at `sigma` as the diffusion network takes it; sigma has one entry a sample or fits `x_t`."""
        return x_t / flow_scale(expand_time(sigma, x_t))

    def velocity(self, output: torch.Tensor, x_t: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The velocity, noise minus data, at the flow point `x_t`, of the network's output there."""
        of_point, of_output = self.velocity_weights(sigma)
        return expand_time(of_point, x_t) * x_t + expand_time(of_output, x_t) * output

    def prediction(self, velocity: torch.Tensor, x_t: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The network's output that has this velocity: the inverse of `velocity`."""
        of_point, of_output = self.velocity_weights(sigma)
        return (velocity - expand_time(of_point, x_t) * x_t) / expand_time(of_output, x_t)

    def velocity_weights(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of the flow point and of the network's output in the velocity, each of sigma's shape."""
        signal, noise = signal_and_noise(sigma.clamp(self.schedule.sigma_min, self.schedule.sigma_max))
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        data_weights, noise_weights = {
            "epsilon": ((1 / signal, -noise / signal), (zero, one)),
            "v_prediction": ((signal, -noise), (noise, signal)),
            "sample": ((zero, one), (1 / noise, -signal / noise)),
        }[self.prediction_type]
        scale, is_noisy = flow_scale(sigma), sigma > 0.5
        of_point = torch.where(is_noisy, 1 - data_weights[0] / scale, noise_weights[0] / scale - 1)
        of_output = torch.where(is_noisy, -data_weights[1], noise_weights[1])
        distance = torch.where(is_noisy, sigma, 1 - sigma)
        return of_point / distance, of_output / distance
