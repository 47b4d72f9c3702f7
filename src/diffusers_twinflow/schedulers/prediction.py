"""Convert between a model's timesteps and output and the sigmas and velocity of the flow."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import diffusers
import numpy as np
import torch

from ..diff2flow import DIFFUSION_PREDICTION_TYPES, SCHEDULE_OPTIONS, Diff2Flow, flow_scale, sigma_of_alpha_bar
from .sigma_grid import shift_sigmas
from .step_terms import weighted_sum

FLOW_PREDICTION_TYPES = ("flow_matching", "flow_prediction")
PREDICTION_TYPES = (*FLOW_PREDICTION_TYPES, *DIFFUSION_PREDICTION_TYPES)


class FlowPrediction:
    """Handles a model that predicts the velocity, with `timesteps = sigmas * num_train_timesteps`.

    Args:
        num_train_timesteps: scale of the model's timesteps.
    """

    largest_sigma = 1.0
    init_noise_sigma = 1.0
    is_bridged = False

    def __init__(self, num_train_timesteps: int) -> None:
        self.scale = num_train_timesteps

    def timesteps_of(self, sigmas: torch.Tensor) -> torch.Tensor:
        """Convert sigmas to the model's timesteps."""
        return sigmas * self.scale

    def sigmas_of(self, timesteps: np.ndarray) -> np.ndarray:
        """Convert the model's timesteps to sigmas."""
        return timesteps / self.scale

    def training_schedule(self, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the falling sigmas and timesteps of training, as stock flow schedulers do before `set_timesteps`."""
        timesteps = torch.arange(self.scale, 0, -1, dtype=torch.float32)
        sigmas = shift_sigmas(timesteps / self.scale, shift)
        return sigmas, sigmas * self.scale

    def set_sigmas(self, sigmas: np.ndarray) -> None:
        """Do nothing, because a flow model needs no preparation for a grid."""

    def velocity(self, model_output: torch.Tensor, sample: torch.Tensor, index: int) -> torch.Tensor:
        """Convert the model's output at evaluation `index` of the grid to the velocity."""
        return model_output


class DiffusionPrediction:
    """Handles a diffusion model, whose output the bridge converts to the velocity of the flow.

    The conversion weights are computed before a sampling loop starts.

    Args:
        config: config of the scheduler.
    """

    is_bridged = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.bridge = Diff2Flow.from_config(config)
        self.largest_sigma = self.bridge.schedule.sigma_max
        self.set_sigmas(np.array([self.largest_sigma]))

    def timesteps_of(self, sigmas: torch.Tensor) -> torch.Tensor:
        """Convert sigmas to the model's timesteps."""
        return self.bridge.schedule.timestep_of(sigmas.double()).to(sigmas)

    def sigmas_of(self, timesteps: np.ndarray) -> np.ndarray:
        """Convert the model's timesteps to sigmas."""
        return self.bridge.schedule.sigma_of(torch.from_numpy(timesteps)).numpy()

    def time_fraction(self, sigma: float) -> float:
        """Return the fraction in [0, 1] of the model's T timesteps up to `sigma`: 1/T at timestep 0, 0 at the data."""
        schedule = self.bridge.schedule
        timestep = schedule.timestep_of(torch.tensor(sigma, dtype=torch.float64)).item()
        return (timestep + min(sigma / schedule.sigma_min, 1.0)) / len(schedule.log_snr)

    def sigmas_at(self, fractions: np.ndarray) -> np.ndarray:
        """Return the sigmas at fractions of the model's timesteps, the inverse of `time_fraction`."""
        schedule = self.bridge.schedule
        counts = torch.from_numpy(fractions) * len(schedule.log_snr)
        return (schedule.sigma_of((counts - 1).clamp_min(0)) * counts.clamp_max(1)).numpy()

    def training_schedule(self, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the falling sigmas and timesteps of training. `shift` has no effect on a diffusion model."""
        alphas_cumprod = self.bridge.schedule.alphas_cumprod.flip(0)
        timesteps = torch.arange(len(alphas_cumprod) - 1, -1, -1, dtype=torch.float32)
        return sigma_of_alpha_bar(alphas_cumprod).float(), timesteps

    def set_sigmas(self, sigmas: np.ndarray) -> None:
        """Compute the conversion weights of a grid.

        Args:
            sigmas: shape [N], without the terminal 0.
        """
        grid = torch.from_numpy(sigmas)
        self.scales: list[float] = flow_scale(grid).tolist()
        self.init_noise_sigma = self.scales[0]
        self.weights = [weights.tolist() for weights in self.bridge.velocity_weights(grid)]

    def velocity(self, model_output: torch.Tensor, sample: torch.Tensor, index: int) -> torch.Tensor:
        """Convert the model's output at evaluation `index` of the grid to the velocity."""
        of_sample, of_output = (weights[index] for weights in self.weights)
        return weighted_sum([(sample, of_sample), (model_output, of_output)])


def prediction_of(config: Mapping[str, Any]) -> FlowPrediction | DiffusionPrediction:
    """Return the prediction that a scheduler's config describes."""
    if config["prediction_type"] in DIFFUSION_PREDICTION_TYPES:
        return DiffusionPrediction(config)
    return FlowPrediction(config["num_train_timesteps"])


def stock_scheduler_name(scheduler: Any) -> str:
    """Return the name of a diffusers scheduler that samples the same model as a `TwinFlowScheduler`."""
    is_diffusion = scheduler.config.get("prediction_type") in DIFFUSION_PREDICTION_TYPES
    return "DDIMScheduler" if is_diffusion else "FlowMatchEulerDiscreteScheduler"


def spell_out_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a diffusers scheduler's config with its prediction type and noise schedule written out.

    `from_config` drops options that were defaults of the original class. Defaults differ between classes, so a default
    must be written out to survive.

    Raises:
        ValueError: if a diffusion scheduler has no `beta_schedule`, such as the EDM schedulers, or if it uses flow sigmas
            although its model predicts no velocity.
    """
    stock_class = getattr(diffusers, str(config.get("_class_name")), None)
    parameters = signature(stock_class.__init__).parameters if stock_class is not None else {}
    names = ("prediction_type", *SCHEDULE_OPTIONS)
    values = {name: parameters[name].default for name in names if name in parameters}
    values |= {name: config[name] for name in names if name in config}
    if values.get("prediction_type") in DIFFUSION_PREDICTION_TYPES and "beta_schedule" not in values:
        raise ValueError(
            f"prediction_type={values['prediction_type']!r} has no beta_schedule in this config, so its noise levels "
            "are unknown. Pass the config of a scheduler that has one, or keep the pipeline's own scheduler."
        )
    if values.get("prediction_type") in DIFFUSION_PREDICTION_TYPES and config.get("use_flow_sigmas"):
        raise ValueError(
            f"prediction_type={values['prediction_type']!r} with use_flow_sigmas=True fits neither a flow model nor a "
            "diffusion model. If the model predicts a velocity, pass prediction_type='flow_prediction'."
        )
    defaults = [name for name in config.get("_use_default_values", []) if name not in values]
    return {**config, **values, "_use_default_values": defaults}
