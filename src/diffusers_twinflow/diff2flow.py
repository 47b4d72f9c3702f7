"""The exact bridge between a variance-preserving diffusion network and the linear flow.

With data `x` and noise `z`, a diffusion point is `sqrt(alpha_bar) * x + sqrt(1 - alpha_bar) * z`, and a flow point is
`(1 - sigma) * x + sigma * z`. Both have the same signal-to-noise ratio if

    sigma = sqrt(1 - alpha_bar) / (sqrt(alpha_bar) + sqrt(1 - alpha_bar))

The flow point is then the diffusion point times `flow_scale(sigma)`. This scale depends only on sigma. The noise
schedule says which timestep of the network has that sigma.
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
SMALLEST_ALPHA_BAR = 2.0**-24  # diffusers' schedulers use it instead of zero terminal SNR


def sigma_of_alpha_bar(alpha_bar: torch.Tensor) -> torch.Tensor:
    """Return the flow's sigma, in [0, 1], with the signal-to-noise ratio of `alpha_bar`, in [0, 1]."""
    noise = (1 - alpha_bar).sqrt()
    return noise / (alpha_bar.sqrt() + noise)


def flow_scale(sigma: torch.Tensor) -> torch.Tensor:
    """Return the factor from the diffusion point to the flow point at `sigma`: 1 at both ends, 0.71 in the middle."""
    return torch.hypot(sigma, 1 - sigma)


def signal_and_noise(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `sqrt(alpha_bar)` and `sqrt(1 - alpha_bar)` of the diffusion point at `sigma`."""
    scale = flow_scale(sigma)
    return (1 - sigma) / scale, sigma / scale


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Converts between the timesteps of a diffusion network and the sigmas of the flow.

    Between two timesteps the log-SNR is linear in the timestep. The network knows only sigmas from `sigma_min`, at its
    timestep 0, to `sigma_max`, at its last timestep. With most schedules, some signal is left at `sigma_max`.

    Attributes:
        alphas_cumprod: `alpha_bar` of every timestep, shape [T], falling, in (0, 1), float64.

    Raises:
        ValueError: if `alphas_cumprod` does not fall, or does not go from mostly signal to mostly noise.
    """

    alphas_cumprod: torch.Tensor

    def __post_init__(self) -> None:
        alpha_bar = self.alphas_cumprod
        if not (0 < alpha_bar[-1] < 0.5 < alpha_bar[0] < 1 and (alpha_bar.diff() < 0).all()):
            raise ValueError(
                f"The noise schedule is not valid: its alphas_cumprod go from {alpha_bar[0].item():.4g} to "
                f"{alpha_bar[-1].item():.4g}, but must fall at every timestep, from above 0.5 to below 0.5. Check "
                "beta_start, beta_end and beta_schedule."
            )

    @classmethod
    def from_config(cls, config: Mapping) -> "NoiseSchedule":
        """Create the schedule from the config of any diffusion scheduler of diffusers.

        Args:
            config: a config with `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule`, `trained_betas` and
                `rescale_betas_zero_snr`. Missing options default to the values of `DDPMScheduler`.
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
        """Sigma of the network's timestep 0."""
        return sigma_of_alpha_bar(self.alphas_cumprod[0]).item()

    @cached_property
    def sigma_max(self) -> float:
        """Sigma of the network's last timestep."""
        return sigma_of_alpha_bar(self.alphas_cumprod[-1]).item()

    @cached_property
    def _log_snr_copies(self) -> dict[tuple[torch.device, torch.dtype], torch.Tensor]:
        return {}

    def _log_snr_like(self, times: torch.Tensor) -> torch.Tensor:
        """Return `log_snr` with the device and dtype of `times`. It is copied once, to avoid a sync in every step."""
        key = times.device, times.dtype
        if key not in self._log_snr_copies:
            self._log_snr_copies[key] = self.log_snr.to(times)
        return self._log_snr_copies[key]

    def timestep_of(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the network's timestep for a sigma, in [0, T - 1], not rounded. Unknown sigmas are clamped."""
        falling = self._log_snr_like(sigma)
        log_snr = torch.minimum(torch.maximum(-torch.logit(sigma), falling[-1]), falling[0])
        above = torch.searchsorted(-falling, -log_snr.contiguous()).clamp(1, len(falling) - 1)
        start, end = falling[above - 1], falling[above]
        return above - 1 + (log_snr - start) / (end - start)

    def sigma_of(self, timestep: torch.Tensor) -> torch.Tensor:
        """Return the sigma of a timestep in [0, T - 1], the inverse of `timestep_of`."""
        below = timestep.floor().long().clamp(0, len(self.log_snr) - 2)
        falling = self._log_snr_like(timestep)
        return torch.sigmoid(-torch.lerp(falling[below], falling[below + 1], timestep - below))


@dataclass(frozen=True, eq=False)
class Diff2Flow:
    """Converts the output of a diffusion network to the velocity of the linear flow, and back.

    Within `[sigma_min, sigma_max]` the conversion is exact. Outside, the network is evaluated at its nearest timestep.
    Above `sigma_max` the velocity follows from the predicted data, `(x_t - x_hat) / sigma`. Below `sigma_min` it follows
    from the predicted noise, `(z_hat - x_t) / (1 - sigma)`. The velocity is continuous, and finite at sigma 0 and 1.

    Attributes:
        schedule: noise schedule of the network.
        prediction_type: "epsilon", "v_prediction" or "sample".

    Raises:
        ValueError: if the prediction type is not one of these.
    """

    schedule: NoiseSchedule
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in DIFFUSION_PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type={self.prediction_type!r} is not valid: it must be one of "
                f"{', '.join(DIFFUSION_PREDICTION_TYPES)}."
            )

    @classmethod
    def from_config(cls, config: Mapping) -> "Diff2Flow":
        """Create the bridge for a network from the config of its diffusers scheduler."""
        return cls(NoiseSchedule.from_config(config), config.get("prediction_type", "epsilon"))

    def network_input(self, x_t: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Convert the flow point at `sigma` to the diffusion network's input.

        Args:
            x_t: flow points, shape [B, ...].
            sigma: shape [B], or a shape that broadcasts over `x_t`.
        """
        return x_t / flow_scale(expand_time(sigma, x_t))

    def velocity(self, output: torch.Tensor, x_t: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Convert the network's output at the flow point `x_t` to the velocity, noise minus data."""
        of_point, of_output = self.velocity_weights(sigma)
        return expand_time(of_point, x_t) * x_t + expand_time(of_output, x_t) * output

    def prediction(self, velocity: torch.Tensor, x_t: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Convert a velocity to the network's output, the inverse of `velocity`."""
        of_point, of_output = self.velocity_weights(sigma)
        return (velocity - expand_time(of_point, x_t) * x_t) / expand_time(of_output, x_t)

    def velocity_weights(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of the flow point and of the network's output in the velocity, each of sigma's shape."""
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
