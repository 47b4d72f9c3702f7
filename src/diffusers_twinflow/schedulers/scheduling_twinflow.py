"""The UCGM sampler as a diffusers scheduler."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .noise import sample_seeds, seeded_noise

STYLES = ("few", "any", "multi")
PREDICTION_TYPES = ("flow_matching",)
SDE = "sde"


@dataclass
class TwinFlowSchedulerOutput(BaseOutput):
    """
    Args:
        prev_sample (`torch.Tensor`): the sample at the next, smaller sigma.
        pred_original_sample (`torch.Tensor`): the data that the prediction points to.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class TwinFlowScheduler(SchedulerMixin, ConfigMixin):
    """
    Few-step, any-step and multi-step sampling of flow-matching models (UCGM, arXiv:2505.07447).

    The model predicts the velocity, noise minus data; sigma is the time in [0, 1] with 1 = noise. A step recovers data
    and noise from the prediction and mixes them again at the next sigma, with a part of the noise drawn anew.

    The grid is always the scheduler's own: of `sigmas` and `timesteps` that a pipeline passes to `set_timesteps` only
    their number counts. Fresh noise comes from the `generator` given to `step`; without one it comes from a generator
    seeded by each sample's own initial latents, so that a seeded pipeline call gives the same picture every time.

    Args:
        num_train_timesteps (`int`, defaults to 1000): value of `timesteps` at pure noise.
        prediction_type (`str`, defaults to "flow_matching"): what the model predicts.
        shift (`float`, defaults to 1.0): `sigma` becomes `shift * sigma / (1 + (shift - 1) * sigma)`.
        sampling_style (`str`, defaults to "few"): the target time of each evaluation: "few" jumps to the data, "any" to
            the next sigma, "multi" asks for the velocity where it is.
        stochastic_ratio (`float` or `str`, *optional*): the part of the noise drawn anew in each step, in [0, 1], or
            "sde". `None` is 1 for the few style and 0 for the others.
        gap_start (`float`, defaults to 0.001): the first sigma is `1 - gap_start`.
        gap_end (`float`, *optional*): the last sigma before 0 is `gap_end`. `None` is 0.6 for one or two steps of the
            few style, 0.5 for more and for the any style, 0 for the multi style, where the grid is then even down to 0.
        kumaraswamy (`list[float]`, *optional*): `(a, b, c)` of the warp `(1 - (1 - tau^a)^b)^c` of `tau = 1 - sigma`.
            `None` is (1.17, 0.8, 1.1) for the multi style and no warp for the others.
        use_dynamic_shifting, base_shift, max_shift, base_image_seq_len, max_image_seq_len: read by stock pipelines;
            without effect here.
    """

    _compatibles = []
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: str = "flow_matching",
        shift: float = 1.0,
        sampling_style: str = "few",
        stochastic_ratio: float | str | None = None,
        gap_start: float = 0.001,
        gap_end: float | None = None,
        kumaraswamy: list[float] | None = None,
        use_dynamic_shifting: bool = False,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
    ):
        _check("prediction_type", prediction_type, prediction_type in PREDICTION_TYPES, f"one of {PREDICTION_TYPES}")
        _check("sampling_style", sampling_style, sampling_style in STYLES, f"one of {STYLES}")
        is_ratio = stochastic_ratio in (None, SDE) or (
            isinstance(stochastic_ratio, (int, float)) and 0 <= stochastic_ratio <= 1
        )
        _check("stochastic_ratio", stochastic_ratio, is_ratio, f"a number in [0, 1], '{SDE}' or None")
        _check("gap_start", gap_start, 0 <= gap_start < 1, "in [0, 1)")
        if gap_end is not None:
            _check("gap_end", gap_end, 0 <= gap_end < 1 - gap_start, "in [0, 1 - gap_start)")
        if kumaraswamy is not None:
            are_positive = len(kumaraswamy) == 3 and all(value > 0 for value in kumaraswamy)
            _check("kumaraswamy", kumaraswamy, are_positive, "three numbers above 0")
        _check("shift", shift, shift > 0, "above 0")

        self.num_inference_steps: int | None = None
        self.timesteps: torch.Tensor | None = None
        self.sigmas: torch.Tensor | None = None
        self.target_timesteps: torch.Tensor | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None

    @property
    def step_index(self) -> int | None:
        """Number of the next step; `None` before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Number of the first step, where a pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start in the middle of the grid, as image-to-image pipelines do."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """Make the grid of `num_inference_steps` steps, which may also be given as the length of a list.

        Args:
            num_inference_steps: 1 or more.
            device: where `timesteps` is wanted.
            sigmas, timesteps: lists whose length alone counts.
            mu: without effect.

        Raises:
            ValueError: where the number of steps is missing or below 1.
        """
        for given in (sigmas, timesteps):
            if given is not None:
                num_inference_steps = len(given)
        _check(
            "num_inference_steps", num_inference_steps, num_inference_steps and num_inference_steps >= 1, "1 or more"
        )
        grid = self._grid(num_inference_steps)
        self._sigmas, self._ratios = grid.tolist(), self._stochastic_ratios(grid).tolist()
        scale = self.config.num_train_timesteps
        targets = {"few": np.zeros(num_inference_steps), "any": grid[1:], "multi": grid[:-1]}
        self.sigmas = torch.tensor(grid, dtype=torch.float32)
        self.timesteps = torch.tensor(grid[:-1] * scale, dtype=torch.float32, device=device)
        target = targets[self.config.sampling_style] * scale
        self.target_timesteps = torch.tensor(target, dtype=torch.float32, device=device)
        self.num_inference_steps = num_inference_steps
        self._step_index = self._begin_index = None
        self._seeds = None

    def get_target_timesteps(self, timestep: torch.Tensor) -> torch.Tensor:
        """The target timestep of each timestep, both in the unit of `timesteps`, found by value on the device."""
        distance = (timestep.float().unsqueeze(-1) - self.timesteps.to(timestep.device)).abs()
        return self.target_timesteps.to(timestep.device)[distance.argmin(-1)]

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[torch.Tensor]:
        """Go from one sigma to the next; the arithmetic is float32.

        Args:
            model_output: predicted velocity, any shape [B, ...].
            timestep: the element of `timesteps` that the prediction was made at.
            sample: the current sample, same shape.
            generator: where fresh noise comes from; `None` is each sample's own generator, see the class.

        Returns:
            the next sample and the predicted data, in the dtype of `model_output`; a tuple of the first alone where
            `return_dict` is false.

        Raises:
            ValueError: before `set_timesteps`, and after the last step.
        """
        if self.timesteps is None:
            raise ValueError("step was called before set_timesteps: call set_timesteps(num_inference_steps) first.")
        if self._step_index is None:
            self._step_index = self._find_step(timestep) if self._begin_index is None else self._begin_index
        index = self._step_index
        if index >= self.num_inference_steps:
            raise ValueError(
                f"step was called more than num_inference_steps={self.num_inference_steps} times: "
                "call set_timesteps again before another sampling."
            )
        sigma, sigma_next, ratio = self._sigmas[index], self._sigmas[index + 1], self._ratios[index]
        velocity, current = model_output.float(), sample.float()
        data = current - sigma * velocity
        if sigma_next == 0:
            previous = data
        else:
            kept = sigma_next * math.sqrt(1 - ratio)
            previous = (1 - sigma_next) * data + kept * (current + (1 - sigma) * velocity)
            if ratio > 0:
                noise = self._noise(sample, generator, index)
                previous = previous + sigma_next * math.sqrt(ratio) * noise
        self._step_index += 1
        previous, data = previous.to(model_output.dtype), data.to(model_output.dtype)
        if not return_dict:
            return (previous,)
        return TwinFlowSchedulerOutput(prev_sample=previous, pred_original_sample=data)

    def scale_model_input(self, sample: torch.Tensor, timestep=None) -> torch.Tensor:
        """The sample as it is."""
        return sample

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Data and noise mixed at `timestep`, shape [B] or [1]."""
        sigma = timestep.to(sample.device, torch.float32) / self.config.num_train_timesteps
        sigma = sigma.reshape(-1, *[1] * (sample.ndim - 1))
        return (sigma * noise + (1 - sigma) * sample).to(sample.dtype)

    def _grid(self, steps: int) -> np.ndarray:
        """Sigmas of `steps` steps and the final 0, float64, falling."""
        config = self.config
        style, gap_end = config.sampling_style, config.gap_end
        if gap_end is None:
            gap_end = {"few": 0.6 if steps <= 2 else 0.5, "any": 0.5, "multi": 0.0}[style]
        points = steps if gap_end > 0 else steps + 1
        tau = np.linspace(config.gap_start, 1 - gap_end, points)[:steps]
        warp = config.kumaraswamy or ((1.17, 0.8, 1.1) if style == "multi" else None)
        if warp:
            a, b, c = warp
            tau = (1 - (1 - tau**a) ** b) ** c
        sigmas = 1 - tau
        sigmas = config.shift * sigmas / (1 + (config.shift - 1) * sigmas)
        return np.append(sigmas, 0.0)

    def _stochastic_ratios(self, sigmas: np.ndarray) -> np.ndarray:
        ratio, (now, following) = self.config.stochastic_ratio, (sigmas[:-1], sigmas[1:])
        if ratio == SDE:
            with np.errstate(divide="ignore"):
                return np.minimum(1.0, np.abs(following - now) * 2 * now / following**2)
        if ratio is None:
            ratio = 1.0 if self.config.sampling_style == "few" else 0.0
        return np.full(len(now), float(ratio))

    def _noise(self, sample: torch.Tensor, generator, index: int) -> torch.Tensor:
        if generator is not None:
            return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=torch.float32)
        if self._seeds is None or len(self._seeds) != len(sample):
            self._seeds = sample_seeds(sample)
        return seeded_noise(self._seeds, sample.shape, index)

    def _find_step(self, timestep: float | torch.Tensor) -> int:
        distance = (self.timesteps - torch.as_tensor(timestep, device=self.timesteps.device).flatten()[0]).abs()
        return int(distance.argmin())

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def _check(name: str, value, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}.")
