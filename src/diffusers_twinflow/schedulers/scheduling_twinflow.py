"""Few-step sampler for TwinFlow models that takes the place of any flow-matching scheduler of diffusers."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor

from .noise import gather_noise, noise_rows, pool_shape, sample_keys
from .sigma_grid import (
    KNOWN_KUMARASWAMY,
    KNOWN_STOCHASTIC_RATIO,
    is_stock_linear,
    known_gap_end,
    twinflow_sigmas,
    unshift_sigmas,
    with_corrections,
)

logger = logging.get_logger(__name__)

SAMPLING_STYLES = ("few", "any", "multi")
PREDICTION_TYPES = ("flow_matching", "flow_prediction")
SEED_STRIDE = 0x9E3779B1  # odd: every noise_seed has seeds of its own


@dataclass
class TwinFlowSchedulerOutput(BaseOutput):
    """
    Output of `TwinFlowScheduler.step`.

    Args:
        prev_sample (`torch.Tensor` of the shape and dtype of `model_output`):
            The sample at the next sigma, the next input of the model.
        pred_original_sample (`torch.Tensor` of the shape and dtype of `model_output`):
            The clean sample that this evaluation alone predicts.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class TwinFlowScheduler(SchedulerMixin, ConfigMixin):
    """
    The sampler of UCGM ([arXiv:2505.07447](https://huggingface.co/papers/2505.07447)) as TwinFlow
    ([arXiv:2512.05150](https://huggingface.co/papers/2512.05150)) uses it, for models that predict a velocity.

    With `x_hat = x - sigma * v` and `z_hat = x + (1 - sigma) * v`, a step from `sigma` to `sigma_next` is
    `(1 - sigma_next) * x_hat + sigma_next * (sqrt(1 - ratio) * z_hat + sqrt(ratio) * noise)`.

    This model inherits from [`SchedulerMixin`] and [`ConfigMixin`]. Check the superclass documentation for the generic
    methods the library implements for all schedulers such as loading and saving.

    Args:
        num_train_timesteps (`int`, defaults to 1000):
            Scale of the model's time: `timesteps = sigmas * num_train_timesteps`.
        prediction_type (`str`, defaults to `"flow_matching"`):
            What the model predicts; `"flow_prediction"` is another name of the same.
        shift (`float`, defaults to 1.0):
            Static time shift of the grid, `shift * sigma / (1 + (shift - 1) * sigma)`. As in the stock scheduler it
            has no effect where `use_dynamic_shifting` is set.
        sampling_style (`str`, defaults to `"few"`):
            Where each evaluation aims: `"few"` at the data, `"any"` at the next sigma, `"multi"` at its own sigma.
        stochastic_ratio (`float` or `"sde"`, *optional*):
            Part of fresh noise, in [0, 1]. `"sde"` is `min(1, 2 * sigma * |sigma_next - sigma| / sigma_next**2)`.
            `None` is what is known to work: 1 for few, 0 for any and multi.
        gap_start (`float`, defaults to 0.001):
            1 minus the sigma of the first evaluation, before `kumaraswamy` and `shift`.
        gap_end (`float`, *optional*):
            Sigma of the last evaluation, before `kumaraswamy` and `shift`. `None` is what is known to work, after
            `shift`: few 0.6 up to 2 steps and 0.5 above, any 0.5, multi 0 (the grid is then even down to the data).
        kumaraswamy (`list[float]`, *optional*):
            The three parameters of the Kumaraswamy warp of the grid. `None` is what is known to work: (1.17, 0.8, 1.1)
            for multi and (1, 1, 1), no warp, for few and any.
        extrapolation_ratio (`float`, defaults to 0.0):
            How far, in [0, 1], `x_hat` and `z_hat` are carried on along their last change, from the third step on.
        sampling_order (`int`, defaults to 1):
            2 spends every other evaluation on a Heun-like correction. (Not `solver_order`: the configs of other
            schedulers that a pipeline may ship hold a `solver_order` of 2.)
        squeeze_target_time (`bool`, defaults to `False`):
            For LoRAs trained with the target time squeezed into the time: `timesteps` carry `sigma - target / 2`.
        use_custom_sigmas (`bool`, defaults to `False`):
            Whether `sigmas` or `timesteps` passed to `set_timesteps` replace the own grid. The linear sigmas that stock
            pipelines always pass never do.
        noise_seed (`int`, defaults to 0):
            Seed of the noise of `step` where no generator is passed to it; see `step`.
        invert_sigmas (`bool`, defaults to `False`):
            For models whose time rises from 0 (noise) to 1 and that predict data minus noise.
        use_dynamic_shifting, base_shift, max_shift, base_image_seq_len, max_image_seq_len, shift_terminal,
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, time_shift_type, stochastic_sampling:
            Read by pipelines, and kept so that `FlowMatchEulerDiscreteScheduler.from_config` gets them back. They do
            not bend the own grid.

    Raises:
        ValueError: for an option that is out of its range; the message names it and the remedy.
    """

    _compatibles = ["FlowMatchEulerDiscreteScheduler"]
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: str = "flow_matching",
        shift: float = 1.0,
        sampling_style: Literal["few", "any", "multi"] = "few",
        stochastic_ratio: float | Literal["sde"] | None = None,
        gap_start: float = 0.001,
        gap_end: float | None = None,
        kumaraswamy: list[float] | None = None,
        extrapolation_ratio: float = 0.0,
        sampling_order: int = 1,
        squeeze_target_time: bool = False,
        use_custom_sigmas: bool = False,
        noise_seed: int = 0,
        invert_sigmas: bool = False,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        stochastic_sampling: bool = False,
    ):
        _check_options(self.config)
        self.num_inference_steps = None
        self.timesteps = None
        self.sigmas = None
        self.target_timesteps = None
        self._noise_elements = self._noise_pool = None
        self._reset()

    def _reset(self):
        self._step_index = None
        self._begin_index = None
        self._keys = None
        self._noise_rows = None
        self._predictions = []

    @property
    def step_index(self) -> int | None:
        """Index of the next evaluation; `None` before the first `step`."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the first evaluation, where `set_begin_index` gave it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0):
        """
        Start at an evaluation in the middle of the grid, as image-to-image pipelines do.

        Args:
            begin_index (`int`, defaults to 0): index into `timesteps`.
        """
        self._begin_index = begin_index

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor | None = None) -> torch.Tensor:
        """Return `sample` as it is: a flow-matching model takes its input unscaled."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | np.ndarray | torch.Tensor | None = None,
        mu: float | None = None,
        timesteps: list[float] | np.ndarray | torch.Tensor | None = None,
    ):
        """
        Set the grid of one picture: `sigmas` ([N + 1], the last one the data), `timesteps` and `target_timesteps` ([N]).

        The grid is the scheduler's own one. Pipelines that always pass sigmas and mu only decide its length, unless
        `use_custom_sigmas` is set and the sigmas are not the linear ones of the stock pipelines.

        Args:
            num_inference_steps (`int`, *optional*):
                Number N of model evaluations, also with `sampling_order=2`. Needed where no list is passed.
            device (`str` or `torch.device`, *optional*):
                Where the three tensors are put.
            sigmas (array of N floats in (0, 1], *optional*):
                Falling sigmas without the terminal zero, used as they are, without any shift.
            mu (`float`, *optional*):
                Accepted, without effect: the own grid does not depend on the resolution.
            timesteps (array of N floats, *optional*):
                The model's times. Without `sigmas` these are `timesteps / num_train_timesteps`.

        Raises:
            ValueError: for less than one step, lists that differ in length or do not fall, and gaps that cross.
        """
        sigmas, timesteps = _as_array(sigmas), _as_array(timesteps)
        lengths = {"num_inference_steps": num_inference_steps, "sigmas": sigmas, "timesteps": timesteps}
        counts = {k: v if k == "num_inference_steps" else len(v) for k, v in lengths.items() if v is not None}
        if not counts or min(counts.values()) < 1:
            raise ValueError(
                f"set_timesteps got {counts or 'no number of steps'}: pass num_inference_steps of 1 or more."
            )
        if len(set(counts.values())) > 1:
            raise ValueError(f"set_timesteps got {counts}: they must agree, or pass only one of them.")
        num_inference_steps = next(iter(counts.values()))

        custom = sigmas if sigmas is not None else timesteps
        if sigmas is None and timesteps is not None:
            custom = timesteps / self.config.num_train_timesteps
        if custom is not None and (not self.config.use_custom_sigmas or is_stock_linear(custom)):
            if not is_stock_linear(custom):
                logger.warning(
                    "The sigmas or timesteps passed to set_timesteps are replaced by TwinFlow's own grid; to use them, "
                    "make the scheduler with use_custom_sigmas=True."
                )
            custom = timesteps = None
        if custom is None:
            true_sigmas, self._is_correction = self._own_grid(num_inference_steps)
        else:
            true_sigmas, self._is_correction = self._check_custom(custom), [False] * num_inference_steps

        self.num_inference_steps = num_inference_steps
        self._sigmas = [*true_sigmas.tolist(), 0.0]
        self._reset()
        self._set_tensors(torch.tensor(self._sigmas, dtype=torch.float32), timesteps, device)

    def _own_grid(self, evaluations: int) -> tuple[np.ndarray, list[bool]]:
        config = self.config
        shift = 1.0 if config.use_dynamic_shifting else config.shift
        points = evaluations if config.sampling_order == 1 else evaluations // 2 + 1
        gap_end = config.gap_end
        if gap_end is None:
            gap_end = unshift_sigmas(known_gap_end(config.sampling_style, evaluations), shift)
        sigmas = twinflow_sigmas(
            points,
            gap_start=config.gap_start,
            gap_end=gap_end,
            kumaraswamy=config.kumaraswamy or KNOWN_KUMARASWAMY[config.sampling_style],
            shift=shift,
        )
        return with_corrections(sigmas, evaluations - points)

    def _check_custom(self, sigmas: np.ndarray) -> np.ndarray:
        if self.config.sampling_order == 2:
            raise ValueError("Custom sigmas need sampling_order=1: corrections stand on the own grid only.")
        if not (sigmas[-1] > 0 and sigmas[0] <= 1 and np.all(np.diff(sigmas) < 0)):
            raise ValueError(f"Custom sigmas must fall, above 0 and at most 1, without the terminal 0, not {sigmas}.")
        return sigmas

    def _set_tensors(self, sigmas: torch.Tensor, timesteps: np.ndarray | None, device):
        targets = {"few": torch.zeros_like(sigmas[:-1]), "any": sigmas[1:], "multi": sigmas[:-1]}
        target_sigmas = targets[self.config.sampling_style]
        times = sigmas[:-1] - target_sigmas / 2 if self.config.squeeze_target_time else sigmas[:-1]
        if self.config.invert_sigmas:
            sigmas, target_sigmas, times = 1 - sigmas, 1 - target_sigmas, 1 - times
        scale = self.config.num_train_timesteps
        times = times * scale if timesteps is None else torch.from_numpy(timesteps).to(torch.float32)
        self.sigmas = sigmas.to(device)
        self.timesteps = times.to(device)
        self.target_timesteps = (target_sigmas * scale).to(device)

    def get_target_timesteps(self, timestep: torch.Tensor) -> torch.Tensor:
        """
        The time each evaluation aims at, for a model that is called with `timestep` only.

        Where the timestep is found by value, the nearest one of the grid counts, so one that was cast to half precision
        or to an integer is found too. Of equal ones it is the first from the next evaluation on. No host sync.

        Args:
            timestep (`torch.Tensor` of any shape): in the unit of `timesteps`.

        Returns:
            `torch.Tensor` of the shape and dtype of `timestep` (float32 for integers), in the same unit.

        Raises:
            ValueError: before `set_timesteps`, where the target depends on the grid.
        """
        dtype = timestep.dtype if timestep.is_floating_point() else torch.float32
        plain = not self.config.squeeze_target_time
        if self.config.sampling_style == "multi" and plain:
            return timestep.to(dtype)
        if self.config.sampling_style == "few":
            data_time = self.config.num_train_timesteps if self.config.invert_sigmas else 0.0
            return torch.full_like(timestep, data_time, dtype=dtype)
        self._check_ready()
        to_come = -(self._step_index or 0)
        timesteps = self.timesteps.roll(to_come).to(timestep.device)
        targets = self.target_timesteps.roll(to_come).to(timestep.device)
        nearest = (timestep.to(torch.float32).unsqueeze(-1) - timesteps).abs().argmin(dim=-1)
        return targets[nearest].to(dtype)

    def index_for_timestep(self, timestep: float | torch.Tensor) -> int:
        """
        The index of a timestep in the grid; the first one of equals.

        An element or slice of `timesteps` itself is found without a host sync, anything else by value, and then half
        precision and whole numbers are near enough.

        Raises:
            ValueError: where the timestep is not on the grid.
        """
        if isinstance(timestep, torch.Tensor):
            if timestep.untyped_storage().data_ptr() == self.timesteps.untyped_storage().data_ptr():
                return timestep.storage_offset() - self.timesteps.storage_offset()
            timestep = timestep.flatten()[0].item()
        grid = self.timesteps.tolist()
        index = min(range(len(grid)), key=lambda i: abs(grid[i] - timestep))
        tolerance = self.config.num_train_timesteps / 1000 + abs(timestep) / 256
        if not abs(grid[index] - timestep) <= tolerance:
            raise ValueError(f"timestep {timestep} is not on the grid {grid}: pass an element of scheduler.timesteps.")
        return index

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        per_token_timesteps: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[torch.Tensor]:
        """
        Go from one sigma of the grid to the next.

        Without a generator, fresh noise is a function of `noise_seed`, the step and each sample's own starting noise
        (what was given to `scale_noise`, or else the first `sample`). So the seed that a user gave to a stock pipeline
        decides the picture, and a sample does not depend on its neighbours in the batch.

        Args:
            model_output (`torch.Tensor` of any shape [B, ...]):
                The model's velocity, noise minus data (data minus noise with `invert_sigmas`). NaN is passed on, as
                the stock schedulers do.
            timestep (`float` or `torch.Tensor`):
                An element of `timesteps`. It is looked at in the first step only, where `set_begin_index` was not
                called (never inside `torch.compile`, where the first step is then the grid's first).
            sample (`torch.Tensor` of the shape of `model_output`):
                The model's input. The arithmetic is float32, float64 for a float64 sample.
            generator (`torch.Generator` or a list of B of them, *optional*):
                Draws the noise instead.
            per_token_timesteps (`torch.Tensor` of shape [B, L], *optional*):
                A time for every token of a [B, L, C] sample, in the unit of `timesteps`; each goes to the next sigma
                of the grid below its own, and tokens at 0 stay. `model_output` is then negated, as in the stock
                scheduler.
            return_dict (`bool`, defaults to `True`):
                Whether to return a [`TwinFlowSchedulerOutput`] or a tuple of `prev_sample` alone.

        Raises:
            ValueError: before `set_timesteps`, after the last step, for a first timestep that is not on the grid, and
                for a generator list that does not fit the batch.
        """
        self._check_ready()
        if isinstance(generator, list) and len(generator) != sample.shape[0]:
            raise ValueError(f"{len(generator)} generators for a batch of {sample.shape[0]}: pass one a sample.")
        index = self._start(timestep)
        if index >= self.num_inference_steps:
            raise ValueError(
                f"The grid has {self.num_inference_steps} steps and all are done: call set_timesteps before a new loop."
            )

        sample = sample.to(torch.promote_types(sample.dtype, torch.float32))
        velocity_sign = -1.0 if self.config.invert_sigmas or per_token_timesteps is not None else 1.0
        if per_token_timesteps is None:
            sigma, sigma_next = self._sigmas[index], self._sigmas[index + 1]
        else:
            sigma, sigma_next = self._per_token_sigmas(per_token_timesteps)
            if self._keys is None:  # what a token below the others holds of an encoded picture varies with the batch
                is_noise = per_token_timesteps == per_token_timesteps.amax(dim=-1, keepdim=True)
                self._keys = sample_keys(sample * is_noise.unsqueeze(-1))
        inputs = (sample, model_output, velocity_sign)
        if self._is_correction[index] and self._predictions:
            prev_sample = _weighted_sum(self._correction_terms(sigma_next, *inputs))
        else:
            prev_sample = self._predict(index, sigma, sigma_next, inputs, generator)
        prev_sample = prev_sample.to(model_output.dtype)
        self._step_index = index + 1
        if self._step_index == self.num_inference_steps:
            self._predictions, self._noise_rows = [], None

        if not return_dict:
            return (prev_sample,)
        pred_original_sample = _weighted_sum([(sample, 1.0), (model_output, -velocity_sign * sigma)])
        return TwinFlowSchedulerOutput(
            prev_sample=prev_sample, pred_original_sample=pred_original_sample.to(model_output.dtype)
        )

    def _check_ready(self):
        if self.num_inference_steps is None:
            raise ValueError("There is no grid yet: call set_timesteps(num_inference_steps) first.")

    def _start(self, timestep: float | torch.Tensor) -> int:
        if self._step_index is None:
            self._step_index = self._begin_index
        if self._step_index is None:
            self._step_index = 0 if torch.compiler.is_compiling() else self.index_for_timestep(timestep)
        return self._step_index

    def _per_token_sigmas(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        neutral = {"sampling_order": 1, "extrapolation_ratio": 0, "squeeze_target_time": False, "invert_sigmas": False}
        for name, value in neutral.items():
            if self.config[name] != value:
                raise ValueError(
                    f"{name}={self.config[name]} does not go with per_token_timesteps: set {name}={value}."
                )
        sigmas = timesteps.to(torch.float32) / self.config.num_train_timesteps
        below = self.sigmas < sigmas.unsqueeze(-1) - 1e-6
        return sigmas.unsqueeze(-1), (below * self.sigmas).amax(dim=-1, keepdim=True)

    def _stochastic_ratio(self, sigma, sigma_next) -> float | torch.Tensor:
        ratio = self.config.stochastic_ratio
        if ratio is None:
            return KNOWN_STOCHASTIC_RATIO[self.config.sampling_style]
        if ratio != "sde":
            return float(ratio)
        if isinstance(sigma, torch.Tensor):
            return (2 * sigma * (sigma - sigma_next) / sigma_next.square().clamp_min(1e-12)).clamp_max(1)
        return min(1.0, 2 * sigma * (sigma - sigma_next) / sigma_next**2) if sigma_next > 0 else 1.0

    def _predict(self, index: int, sigma, sigma_next, inputs: tuple, generator) -> torch.Tensor:
        ratio = self._stochastic_ratio(sigma, sigma_next)
        is_number, is_last = isinstance(ratio, float), index + 1 == self.num_inference_steps
        if is_last or (is_number and ratio == 0):
            return _weighted_sum(self._prediction_terms(sigma, sigma_next, ratio, *inputs))
        noise = self._noise(inputs[0], index, generator)
        if is_number and ratio == 1:
            return torch.lerp(_weighted_sum(self._prediction_terms(sigma, 0.0, ratio, *inputs)), noise, sigma_next)
        terms = self._prediction_terms(sigma, sigma_next, ratio, *inputs)
        return _weighted_sum([*terms, (noise, sigma_next * ratio**0.5)])

    def _prediction_terms(self, sigma, sigma_next, ratio, sample, model_output, velocity_sign: float) -> list:
        """The deterministic part of a step, as tensors and their weights."""
        extrapolation = self.config.extrapolation_ratio if len(self._predictions) > 1 else 0.0
        kept = sigma_next * (1 - ratio) ** 0.5
        scale = 1.0 if isinstance(ratio, float) and ratio == 0 else 1 - sigma_next + kept

        def velocity_weight(sigma):
            return velocity_sign * (kept * (1 - sigma) - (1 - sigma_next) * sigma)

        if extrapolation > 0:
            last_sample, last_output, last_sigma = self._predictions[-1]
            terms = [
                (sample, (1 + extrapolation) * scale),
                (model_output, (1 + extrapolation) * velocity_weight(sigma)),
                (last_sample, -extrapolation * scale),
                (last_output, -extrapolation * velocity_weight(last_sigma)),
            ]
        else:
            terms = [(sample, scale), (model_output, velocity_weight(sigma))]
        if self.config.extrapolation_ratio > 0 or self.config.sampling_order == 2:
            self._predictions = [*self._predictions[-2:], (sample, model_output, sigma)]
        return terms

    def _correction_terms(self, sigma_next, sample, model_output, velocity_sign: float) -> list:
        """Second order: the step once more, with the mean of the noise predicted at its start and at its end."""
        extrapolation = self.config.extrapolation_ratio if len(self._predictions) > 2 else 0.0
        start_sample, start_output, sigma = self._predictions[-1]
        half = 0.5 * (sigma_next - sigma) / (1 - sigma)
        terms = [
            (start_sample, (1 - sigma_next) / (1 - sigma) + half * (1 + extrapolation)),
            (start_output, velocity_sign * half * (1 + extrapolation) * (1 - sigma)),
            (sample, half),
            (model_output, velocity_sign * half * (1 - sigma_next)),
        ]
        if extrapolation > 0:
            last_sample, last_output, last_sigma = self._predictions[-2]
            terms += [
                (last_sample, -half * extrapolation),
                (last_output, -velocity_sign * half * extrapolation * (1 - last_sigma)),
            ]
        return terms

    def _noise(self, sample: torch.Tensor, index: int, generator) -> torch.Tensor:
        if generator is not None:
            return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        if self._keys is None or len(self._keys) != len(sample):
            self._keys, self._noise_rows = sample_keys(sample), None
        if self._noise_rows is None:
            elements = sample.shape[1:].numel()
            if self._noise_elements != elements:
                self._noise_elements, self._noise_pool = elements, pool_shape(elements)
            self._noise_rows = noise_rows(self._keys.to(sample.device), elements, self._noise_pool)
        seed = (self.config.noise_seed * SEED_STRIDE + index) % 2**32
        return gather_noise(self._noise_rows, self._noise_pool, sample.shape, seed).to(sample.dtype)

    def scale_noise(self, sample: torch.Tensor, timestep: float | torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """
        Mix data and noise, `sigma * noise + (1 - sigma) * sample`, at the evaluation that comes next.

        Before the first step that is `begin_index`, or else where `timestep` stands on the grid. What is given as
        `noise` then also seeds the fresh noise of `step`.

        Args:
            sample (`torch.Tensor` of shape [B, ...]): data.
            timestep (`float` or `torch.Tensor` of shape [B] or [1]): elements of `timesteps`.
            noise (`torch.Tensor` of the shape of `sample`): standard normal noise.

        Returns:
            `torch.Tensor` of the shape and dtype of `sample`.

        Raises:
            ValueError: before `set_timesteps`, and for a timestep that is not on the grid.
        """
        self._check_ready()
        if self._step_index is not None:
            sigma = self._sigmas[self._step_index]
        else:
            self._keys, self._noise_rows = sample_keys(noise), None
            if self._begin_index is not None:
                sigma = self._sigmas[self._begin_index]
            else:
                found = [self._sigmas[self.index_for_timestep(t)] for t in torch.as_tensor(timestep).reshape(-1)]
                sigma = torch.tensor(found, device=sample.device).reshape(-1, *[1] * (sample.ndim - 1))
        return (sigma * noise.to(torch.float32) + (1 - sigma) * sample.to(torch.float32)).to(sample.dtype)

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: float | torch.Tensor
    ) -> torch.Tensor:
        """`scale_noise` in the argument order of the diffusion schedulers."""
        return self.scale_noise(original_samples, timesteps, noise)

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def _weighted_sum(terms: list) -> torch.Tensor:
    """Sum of tensors times their weights (numbers, or tensors that broadcast), in as few kernels as there are terms."""
    (first, scale), *terms = terms
    total = first if isinstance(scale, float) and scale == 1 else first * scale
    for tensor, weight in terms:
        if isinstance(weight, torch.Tensor):
            total = torch.addcmul(total, tensor.to(total.dtype), weight)
        else:
            total = torch.add(total, tensor, alpha=weight)
    return total


def _as_array(values) -> np.ndarray | None:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return None if values is None else np.asarray(values, dtype=np.float64)


def _check_options(config):
    ratio, warp, gap_end = config.stochastic_ratio, config.kumaraswamy, config.gap_end
    rules = {
        "num_train_timesteps": (config.num_train_timesteps >= 1, "1 or more"),
        "prediction_type": (config.prediction_type in PREDICTION_TYPES, f"one of {PREDICTION_TYPES}"),
        "shift": (config.shift > 0, "above 0; 1 is no shift"),
        "sampling_style": (config.sampling_style in SAMPLING_STYLES, f"one of {SAMPLING_STYLES}"),
        "stochastic_ratio": (
            ratio in (None, "sde") or (not isinstance(ratio, str) and 0 <= ratio <= 1),
            "in [0, 1], 'sde', or None for what the style needs",
        ),
        "gap_start": (0 <= config.gap_start < 1, "in [0, 1)"),
        "gap_end": (
            gap_end is None or 0 <= gap_end < 1 - config.gap_start,
            "in [0, 1 - gap_start), so they do not cross",
        ),
        "kumaraswamy": (
            warp is None or (len(warp) == 3 and min(warp) > 0),
            "three numbers above 0, or None for what the style needs",
        ),
        "extrapolation_ratio": (0 <= config.extrapolation_ratio <= 1, "in [0, 1]"),
        "sampling_order": (config.sampling_order in (1, 2), "1 or 2"),
        "noise_seed": (0 <= config.noise_seed < 2**32, "in [0, 2**32)"),
    }
    for name, (allowed, remedy) in rules.items():
        if not allowed:
            raise ValueError(f"{name}={config[name]!r} cannot be: make it {remedy}.")
    if config.sampling_order == 2 and config.gap_start == 0:
        raise ValueError("gap_start=0 cannot be with sampling_order=2, which divides by it: make it 0.001.")
