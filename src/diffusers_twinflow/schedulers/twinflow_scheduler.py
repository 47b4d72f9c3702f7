"""The few-step sampler of TwinFlow models, which replaces any flow-matching scheduler of diffusers."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor

from ..sampling_calls import SamplingCall, begin_sampling
from .noise import SampleNoise
from .prediction import DiffusionPrediction, prediction_of
from .scheduler_config import (
    CARRIED,
    DIFFUSION_SCHEDULERS,
    FLOW_SCHEDULERS,
    OPTIONS_OF_A_STYLE,
    check_options,
    exchange_entries,
    own_config,
    shift_of,
    whole_numbers,
)
from .sigma_grid import (
    KNOWN_STOCHASTIC_RATIO,
    as_array,
    check_custom_sigmas,
    nearest_index,
    number_of_steps,
    own_grid,
)
from .step_terms import (
    Evaluation,
    Number,
    correction_terms,
    data_terms,
    is_noisiest,
    per_token_sigmas,
    prediction_terms,
    sde_ratio,
    weighted_sum,
)
from .stock_sigmas import is_linear, is_stock

if TYPE_CHECKING:
    Function = TypeVar("Function", bound=Callable[..., None])

    def register_to_config(init: Function) -> Function: ...  # diffusers' decorator hides the constructor's options

else:
    from diffusers.configuration_utils import register_to_config

logger = logging.get_logger(__name__)

NO_GRID = "The scheduler has no timesteps yet: call set_timesteps(num_inference_steps) first."

Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class TwinFlowSchedulerOutput(BaseOutput):
    """
    Output of `TwinFlowScheduler.step`.

    Args:
        prev_sample (`torch.Tensor` of the shape and dtype of `model_output`):
            The sample at the next sigma. It is the model's input in the next step.
        pred_original_sample (`torch.Tensor` of the shape and dtype of `model_output`):
            The clean sample that this evaluation predicts.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class TwinFlowScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # its bases disagree about `config_name`
    """
    Few-step sampler for TwinFlow models ([arXiv:2512.05150](https://huggingface.co/papers/2512.05150)).

    It implements the sampler of UCGM ([arXiv:2505.07447](https://huggingface.co/papers/2505.07447)) with the settings of
    TwinFlow. It works with models that predict a velocity and, through `Diff2Flow`, with diffusion models.

    The model predicts a velocity `v` at the sample `x`. With `x_hat = x - sigma * v` and `z_hat = x + (1 - sigma) * v`,
    a step from `sigma` to `sigma_next` returns
    `(1 - sigma_next) * x_hat + sigma_next * (sqrt(1 - ratio) * z_hat + sqrt(ratio) * noise)`.

    Examples:
        >>> pipe.scheduler = TwinFlowScheduler.from_config(pipe.scheduler.config)
        >>> image = pipe(prompt, num_inference_steps=2, guidance_scale=0.0).images[0]

    This model inherits from [`SchedulerMixin`] and [`ConfigMixin`]. Check the superclass documentation for the generic
    methods the library implements for all schedulers such as loading and saving.

    Args:
        num_train_timesteps (`int`, defaults to 1000):
            Scale of the model's timesteps: `timesteps = sigmas * num_train_timesteps`.
        prediction_type (`str`, defaults to `"flow_matching"`):
            The quantity that the model predicts. `"flow_matching"` and `"flow_prediction"` both mean the velocity.
            `"epsilon"`, `"v_prediction"` and `"sample"` are for diffusion models. The scheduler then still steps along
            the linear flow: `scale_model_input` returns the diffusion model's input, `timesteps` are in the model's
            unit and need not be whole numbers, and `step` converts the prediction. The grid starts no higher than the
            sigma of the model's last timestep. With `"multi"` it is even in the model's timesteps, as in DDIM.
        shift (`float`, defaults to 1.0):
            Static time shift of the grid, `shift * sigma / (1 + (shift - 1) * sigma)`. As in the stock scheduler, it
            has no effect if `use_dynamic_shifting` is set.
        sampling_style (`str`, defaults to `"few"`):
            The target of each evaluation: `"few"` predicts the data, `"any"` the next sigma, `"multi"` its own sigma
            (ordinary flow matching).
        stochastic_ratio (`float` or `"sde"`, *optional*):
            Share of fresh noise per step, in [0, 1]. `"sde"` is
            `min(1, 2 * sigma * |sigma_next - sigma| / sigma_next**2)`. `None` uses 1 for `"few"` and 0 for `"any"` and
            `"multi"`.
        gap_start (`float`, defaults to 0.001):
            1 minus the sigma of the first evaluation, before `kumaraswamy` and `shift`.
        gap_end (`float` or `list[float]`, *optional*):
            Sigma of the last evaluation, before `kumaraswamy` and `shift`. In a list, the first number is for one step,
            the second for two steps, and the last one for all higher counts. `None` uses values after `shift`: 0.6 up
            to 2 steps and 0.5 above for `"few"`, 0.5 for `"any"`, and 0 for `"multi"`, whose grid is even down to the
            data.
        kumaraswamy (`list[float]`, *optional*):
            The three parameters of the Kumaraswamy warp of the grid. `None` uses (1.17, 0.8, 1.1) for `"multi"` on a
            flow model, and no warp, which is (1, 1, 1), otherwise.
        extrapolation_ratio (`float`, defaults to 0.0):
            Strength, in [0, 1], of the extrapolation of `x_hat` and `z_hat` along their last change. It starts with the
            third step.
        sampling_order (`int`, defaults to 1):
            With 2, every other evaluation is a Heun-like correction. It is not called `solver_order` because the
            configs of other schedulers often contain `solver_order=2`.
        squeeze_target_time (`bool`, defaults to `False`):
            Set it for LoRAs that were trained with the target time encoded in the timestep: `timesteps` are then
            computed from `sigma - target / 2`.
        use_custom_sigmas (`bool`, defaults to `False`):
            Whether `sigmas` or `timesteps` passed to `set_timesteps` replace the scheduler's grid. The linear sigmas
            that stock pipelines always pass never replace it.
        noise_seed (`int`, defaults to 0):
            Seed of the fresh noise if `step` gets no generator; see `step`.
        invert_sigmas (`bool`, defaults to `False`):
            Set it for models whose time rises from 0 (noise) to 1 (data) and that predict data minus noise.
        beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr:
            Noise schedule of a diffusion model, as in `DDPMScheduler`. They have no effect on a flow model.
        use_dynamic_shifting, base_shift, max_shift, base_image_seq_len, max_image_seq_len, shift_terminal,
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, time_shift_type, stochastic_sampling:
            Stored for the pipelines that read them and for `FlowMatchEulerDiscreteScheduler.from_config`. They do not
            change this scheduler's grid, except that `use_dynamic_shifting` turns `shift` off.

    Raises:
        ValueError: if an option is out of range; the message names it and says what is valid.
    """

    _compatibles = [*FLOW_SCHEDULERS, *DIFFUSION_SCHEDULERS]
    order = 1
    if TYPE_CHECKING:

        @property
        def config(self) -> Any: ...  # every option is an attribute of the config

    __module__ = f"{__package__}.scheduling_twinflow"  # saved pipelines name it

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: str = "flow_matching",
        shift: float = 1.0,
        sampling_style: Literal["few", "any", "multi"] = "few",
        stochastic_ratio: float | Literal["sde"] | None = None,
        gap_start: float = 0.001,
        gap_end: float | list[float] | None = None,
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
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self.register_to_config(**whole_numbers(self.config))
        check_options(self.config)
        self._prediction = prediction_of(self.config)
        self._shift = self.config.shift
        self.num_inference_steps: int | None = None
        shift = 1.0 if use_dynamic_shifting else self._shift
        self.sigmas, self.timesteps = self._prediction.training_schedule(shift)
        self.sigma_max, self.sigma_min = self.sigmas[0].item(), self.sigmas[-1].item()
        self.target_timesteps: torch.Tensor | None = None
        self._noise = SampleNoise(noise_seed)
        self._has_warned = False
        self._call: SamplingCall | None = None
        self._reset()

    def _reset(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._predictions: list[Evaluation] = []
        self._noise.restart()

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """
        Create a scheduler from the config of another scheduler, for a flow-matching or a diffusion model.

        The model's shift is kept, even if the other scheduler calls it `flow_shift` or has it as a default. The
        prediction type and noise schedule of a diffusion model are kept too. A config of SimpleTuner's
        `TwinFlowScheduler` is translated.

        Args:
            config (`dict`): config of a scheduler.
            return_unused_kwargs (`bool`, defaults to `False`): whether to also return the unused keyword arguments.
            kwargs: options that replace options of the config.

        Returns:
            `TwinFlowScheduler`, or a tuple of it and a `dict` if `return_unused_kwargs` is set.

        Raises:
            ValueError: if there is no config, if a diffusion scheduler has no `beta_schedule`, or if it uses flow
                sigmas although its model predicts no velocity.
        """
        if config is None:
            raise ValueError("config is missing: pass the config of a scheduler, such as `pipe.scheduler.config`.")
        asked = {name: kwargs[name] for name in ("prediction_type",) if name in kwargs}
        own = own_config({**config, **asked})
        if "shift" not in kwargs and (shift := shift_of(own)) is not None:
            kwargs["shift"] = shift
        made: Any = super().from_config(own, True, **kwargs)
        scheduler, unused = made
        scheduler.register_to_config(_class_name=own.get("_class_name"))
        return (scheduler, unused) if return_unused_kwargs else scheduler

    def with_style(self, sampling_style: str) -> "TwinFlowScheduler":
        """
        Return a scheduler of another style for the same model.

        `stochastic_ratio`, `gap_end` and `kumaraswamy` get the defaults of the style. All other options stay the same.

        Args:
            sampling_style (`str`): `"few"`, `"any"` or `"multi"`.

        Raises:
            ValueError: if there is no such style.

        Examples:
            >>> pipe.scheduler = pipe.scheduler.with_style("any")
            >>> image = pipe("a red fox in the snow", num_inference_steps=4).images[0]
        """
        options: dict[str, Any] = {"sampling_style": sampling_style}
        if sampling_style != self.config.sampling_style:
            options |= dict.fromkeys(OPTIONS_OF_A_STYLE)
        return type(self).from_config(self.config, **options)

    def register_to_config(self, **kwargs: Any) -> None:
        """Add options to the config, and the entries with which other schedulers accept it without a warning."""
        super().register_to_config(**kwargs)
        parameters = inspect.signature(TwinFlowScheduler.__init__).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
        super().register_to_config(**exchange_entries(self.config, defaults))

    def to_json_string(self) -> str:
        """Return the config as JSON, with `TwinFlowScheduler` as the class name and every option under its name."""
        stock_name = self.config["_class_name"]
        values: dict[str, Any] = json.loads(super().to_json_string())
        self.register_to_config(_class_name=stock_name)
        del values[CARRIED]
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    @property
    def compatibles(self) -> list[type[SchedulerMixin]]:  # type: ignore[override]  # other classes, as in diffusers
        """The scheduler classes of the installed diffusers that can sample the same model; see `from_config`."""
        names = DIFFUSION_SCHEDULERS if self._prediction.is_bridged else FLOW_SCHEDULERS
        return [getattr(diffusers, name) for name in names if hasattr(diffusers, name)]

    @property
    def shift(self) -> float:
        """The static shift of the grid, from the config or from `set_shift`."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """
        Change the static shift for future calls of `set_timesteps`. The config does not change.

        Args:
            shift (`float`): a number above 0; 1 is no shift.

        Raises:
            ValueError: if the shift is 0 or less.
        """
        check_options({**self.config, "shift": shift})
        self._shift = shift

    @property
    def init_noise_sigma(self) -> float:
        """The factor by which pipelines of diffusion models multiply the starting noise; 1 for a flow model."""
        return self._prediction.init_noise_sigma

    @property
    def step_index(self) -> int | None:
        """Index of the next evaluation; `None` before the first `step`."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the first evaluation if `set_begin_index` was called, else `None`."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """
        Start in the middle of the grid, as image-to-image pipelines do.

        Args:
            begin_index (`int`, defaults to 0):
                Index into `timesteps`. With `num_inference_steps` no step is left.

        Raises:
            ValueError: if the index is not between 0 and `num_inference_steps`.
        """
        if self.num_inference_steps is not None and not 0 <= begin_index <= self.num_inference_steps:
            raise ValueError(
                f"begin_index={begin_index} is not valid: it must be between 0 and {self.num_inference_steps}, the "
                "number of steps."
            )
        self._begin_index = begin_index
        if self._call is not None and self._step_index is None:
            self._call.move_to(begin_index)

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor | None = None) -> torch.Tensor:
        """
        Return the model's input: `sample` for a flow model, and `sample` scaled for a diffusion model.

        Args:
            sample (`torch.Tensor` of any shape): the sample that `step` gets next.
            timestep (`float` or `torch.Tensor`): an element of `timesteps`.

        Returns:
            `torch.Tensor` of the shape of `sample`.

        Raises:
            ValueError: for a diffusion model, if `set_timesteps` was not called or the timestep is not on the grid.
        """
        if not isinstance(self._prediction, DiffusionPrediction):
            return sample
        self._check_ready()
        return sample / self._prediction.scales[self._next_index(timestep)]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | np.ndarray | torch.Tensor | None = None,
        mu: float | None = None,
        timesteps: list[float] | np.ndarray | torch.Tensor | None = None,
    ) -> None:
        """
        Set the grid of a sampling loop: `sigmas` (N + 1 values, ending with 0), `timesteps` and `target_timesteps` (N).

        The scheduler computes the grid from its options. `sigmas` and `timesteps` decide only the number of steps,
        unless `use_custom_sigmas` is set and they are not the linear ones that stock pipelines always pass.

        Args:
            num_inference_steps (`int`, *optional*):
                Number N of model evaluations, also with `sampling_order=2`. Required if no list is passed.
            device (`str` or `torch.device`, *optional*):
                Device of the three tensors.
            sigmas (array of N floats in (0, 1], *optional*):
                Falling sigmas without the terminal zero. They are used without any shift.
            mu (`float`, *optional*):
                Accepted for compatibility and ignored, because the grid does not depend on the resolution.
            timesteps (array of N floats, *optional*):
                The model's timesteps. Without `sigmas`, the sigmas are computed from them.

        Raises:
            ValueError: if there is less than one step, if lists differ in length or do not fall, or if `gap_start` and
                `gap_end` leave no room for a grid.
        """
        sigmas, timesteps = as_array(sigmas), as_array(timesteps)
        num_inference_steps = number_of_steps(num_inference_steps, sigmas, timesteps)
        given = self._prediction.sigmas_of(timesteps) if sigmas is None and timesteps is not None else sigmas
        if given is not None and self.config.use_custom_sigmas and not is_linear(given):
            check_custom_sigmas(given, self.config.sampling_order)
            true_sigmas, self._is_correction = given, [False] * num_inference_steps
        else:
            self._warn_if_replaced(given)
            timesteps = None
            true_sigmas, self._is_correction = own_grid(
                self.config, num_inference_steps, self._prediction, self._shift
            )

        self.num_inference_steps = num_inference_steps
        self._sigmas = [*true_sigmas.tolist(), 0.0]
        self._reset()
        self._prediction.set_sigmas(true_sigmas)
        targets = self._set_tensors(torch.tensor(self._sigmas, dtype=torch.float32), timesteps, device)
        self._call = SamplingCall(self._noise_times(self.timesteps), self._noise_times(targets))
        begin_sampling(self._call)

    def _noise_times(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Convert timesteps to times in [0, 1] with 1 at noise."""
        times = timesteps / self.config.num_train_timesteps
        return 1 - times if self.config.invert_sigmas else times

    def _warn_if_replaced(self, given: np.ndarray | None) -> None:
        if given is None or self._has_warned or is_stock(given, self.config.num_train_timesteps):
            return
        self._has_warned = True
        logger.warning(
            "TwinFlowScheduler ignores the sigmas or timesteps passed to set_timesteps and computes its own grid. To "
            "use yours, create the scheduler with use_custom_sigmas=True."
        )

    def _set_tensors(
        self, sigmas: torch.Tensor, timesteps: np.ndarray | None, device: str | torch.device | None
    ) -> torch.Tensor:
        targets = {"few": torch.zeros_like(sigmas[:-1]), "any": sigmas[1:], "multi": sigmas[:-1]}
        target_sigmas = targets[self.config.sampling_style]
        times = sigmas[:-1] - target_sigmas / 2 if self.config.squeeze_target_time else sigmas[:-1]
        if self.config.invert_sigmas:
            sigmas, target_sigmas, times = 1 - sigmas, 1 - target_sigmas, 1 - times
        times = (
            self._prediction.timesteps_of(times)
            if timesteps is None
            else torch.from_numpy(timesteps).to(torch.float32)
        )
        self.sigmas = sigmas.to(device)
        self.timesteps = times.to(device)
        self.target_timesteps = self._prediction.timesteps_of(target_sigmas).to(device)
        return self.target_timesteps

    def get_target_timesteps(self, timestep: torch.Tensor) -> torch.Tensor:
        """
        Return the target time of each timestep, for a model that gets only `timestep`.

        A timestep is matched to the nearest one of the grid, so a value that was cast to half precision or to an
        integer is found too. If several are equal, the first one from the next evaluation on is used. There is no host
        sync.

        Args:
            timestep (`torch.Tensor` of any shape): timesteps in the unit of `timesteps`.

        Returns:
            `torch.Tensor` of the shape and dtype of `timestep` (float32 for integers), in the same unit.

        Raises:
            ValueError: if the target depends on the grid and `set_timesteps` was not called.
        """
        dtype = timestep.dtype if timestep.is_floating_point() else torch.float32
        plain = not self.config.squeeze_target_time
        if self.config.sampling_style == "multi" and plain:
            return timestep.to(dtype)
        if self.config.sampling_style == "few":
            data_time = self.config.num_train_timesteps if self.config.invert_sigmas else 0.0
            return torch.full_like(timestep, data_time, dtype=dtype)
        if self.target_timesteps is None:
            raise ValueError(NO_GRID)
        to_come = -(self._step_index or 0)
        timesteps = self.timesteps.roll(to_come).to(timestep.device)
        targets = self.target_timesteps.roll(to_come).to(timestep.device)
        nearest = (timestep.to(torch.float32).unsqueeze(-1) - timesteps).abs().argmin(dim=-1)
        return targets[nearest].to(dtype)

    def index_for_timestep(self, timestep: float | torch.Tensor) -> int:
        """
        Return the index of a timestep in the grid, the first index if several are equal.

        An element or slice of `timesteps` is found without a host sync. Any other timestep is found by value, also if
        it was cast to half precision or rounded to a whole number.

        Raises:
            ValueError: if the timestep is not on the grid.
        """
        if isinstance(timestep, torch.Tensor):
            if timestep.untyped_storage().data_ptr() == self.timesteps.untyped_storage().data_ptr():
                return int(timestep.storage_offset() - self.timesteps.storage_offset())
            timestep = timestep.flatten()[0].item()
        return nearest_index(self.timesteps.tolist(), timestep, tolerance=self.config.num_train_timesteps / 1000)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: Generators = None,
        per_token_timesteps: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[torch.Tensor]:
        """
        Step the sample from one sigma of the grid to the next.

        Without a generator, fresh noise is computed from `noise_seed`, the step and the sample's starting noise. The
        starting noise is the noise passed to `scale_noise`, or else the first `sample`. So the seed passed to a stock
        pipeline decides the image, and a sample does not depend on the rest of its batch.

        Args:
            model_output (`torch.Tensor` of any shape [B, ...]):
                Output of the model, of the kind that `prediction_type` names. A velocity is noise minus data, or data
                minus noise with `invert_sigmas`. NaN is passed on, as in the stock schedulers.
            timestep (`float` or `torch.Tensor`):
                An element of `timesteps`. It is read only in the first step, and only if `set_begin_index` was not
                called. Inside `torch.compile` it is never read, and the loop starts at the first timestep.
            sample (`torch.Tensor` of the shape of `model_output`):
                The sample at this sigma, before `scale_model_input`. The arithmetic is in float32, or in float64 for a
                float64 sample.
            generator (`torch.Generator` or a list of B of them, *optional*):
                Generator of the fresh noise.
            per_token_timesteps (`torch.Tensor` of shape [B, L], *optional*):
                A timestep for every token of a [B, L, C] sample, in the unit of `timesteps`. Each token goes to the
                next lower sigma of the grid, and tokens at 0 do not change. `model_output` is then data minus noise,
                as in the stock scheduler.
            return_dict (`bool`, defaults to `True`):
                Whether to return a [`TwinFlowSchedulerOutput`] or a tuple with only `prev_sample`.

        Returns:
            [`TwinFlowSchedulerOutput`] or `tuple`.

        Raises:
            ValueError: if `set_timesteps` was not called, if all steps are done, if the first timestep is not on the
                grid, or if the number of generators differs from the batch size.
        """
        num_evaluations = self._check_ready()
        if isinstance(generator, list) and len(generator) != sample.shape[0]:
            raise ValueError(
                f"Got {len(generator)} generators for a batch of {sample.shape[0]}: pass one per sample, or a single one."
            )
        index = self._start(timestep)
        if index >= num_evaluations:
            raise ValueError(f"All {num_evaluations} steps are done: call set_timesteps before a new sampling loop.")

        dtype, sample = model_output.dtype, sample.to(torch.promote_types(sample.dtype, torch.float32))
        model_output = self._prediction.velocity(model_output, sample, index)
        sign = -1.0 if self.config.invert_sigmas or per_token_timesteps is not None else 1.0
        if per_token_timesteps is None:
            sigma, sigma_next = self._sigmas[index], self._sigmas[index + 1]
        else:
            sigma, sigma_next = per_token_sigmas(per_token_timesteps, self.sigmas, self.config)
            if not self._noise.is_started:  # tokens with a lower time contain an encoded image, not noise
                self._noise.start(sample * is_noisiest(per_token_timesteps))
        here = Evaluation(sample, model_output, sigma, sign)
        if self._is_correction[index] and self._predictions:
            prev_sample = self._correct(here, sigma_next)
        else:
            prev_sample = self._predict(here, index, sigma_next, generator)
        prev_sample = prev_sample.to(dtype)
        self._step_index = index + 1
        if self._call is not None:
            self._call.move_to(self._step_index)
        if self._step_index == self.num_inference_steps:
            self._predictions = []
            self._noise.release()

        if not return_dict:
            return (prev_sample,)
        pred_original_sample = weighted_sum(data_terms(here))
        return TwinFlowSchedulerOutput(prev_sample=prev_sample, pred_original_sample=pred_original_sample.to(dtype))

    def _check_ready(self) -> int:
        """Return the number of evaluations of the grid, or raise a `ValueError` if there is no grid."""
        if self.num_inference_steps is None:
            raise ValueError(NO_GRID)
        return self.num_inference_steps

    def _start(self, timestep: float | torch.Tensor) -> int:
        self._step_index = self._next_index(timestep)
        return self._step_index

    def _next_index(self, timestep: float | torch.Tensor | None) -> int:
        for index in (self._step_index, self._begin_index):
            if index is not None:
                return index
        if torch.compiler.is_compiling():
            return 0
        if timestep is None:
            raise ValueError("timestep is missing: before the first step, pass an element of scheduler.timesteps.")
        return self.index_for_timestep(timestep)

    def _stochastic_ratio(self, sigma: Number, sigma_next: Number) -> float | torch.Tensor:
        ratio = self.config.stochastic_ratio
        if ratio is None:
            return KNOWN_STOCHASTIC_RATIO[self.config.sampling_style]
        return sde_ratio(sigma, sigma_next) if ratio == "sde" else float(ratio)

    def _predict(self, here: Evaluation, index: int, sigma_next: Number, generator: Generators) -> torch.Tensor:
        ratio = self._stochastic_ratio(here.sigma, sigma_next)
        last = self._predictions[-1] if len(self._predictions) > 1 else None
        if self.config.extrapolation_ratio > 0 or self.config.sampling_order == 2:
            self._predictions = [*self._predictions[-2:], here]
        is_number, is_last = isinstance(ratio, float), index + 1 == self.num_inference_steps
        extrapolation = self.config.extrapolation_ratio
        if is_last or (is_number and ratio == 0):
            return weighted_sum(prediction_terms(here, sigma_next, ratio, last, extrapolation))
        noise = self._draw(here.sample, index, generator)
        if is_number and ratio == 1:
            return torch.lerp(weighted_sum(prediction_terms(here, 0.0, ratio, last, extrapolation)), noise, sigma_next)
        terms = prediction_terms(here, sigma_next, ratio, last, extrapolation)
        return weighted_sum([*terms, (noise, sigma_next * ratio**0.5)])

    def _correct(self, here: Evaluation, sigma_next: float) -> torch.Tensor:
        last = self._predictions[-2] if len(self._predictions) > 2 else None
        start, extrapolation = self._predictions[-1], self.config.extrapolation_ratio
        return weighted_sum(correction_terms(start, here, sigma_next, last, extrapolation))

    def _draw(self, sample: torch.Tensor, index: int, generator: Generators) -> torch.Tensor:
        if generator is not None:
            return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        return self._noise.draw(sample, index)

    def scale_noise(self, sample: torch.Tensor, timestep: float | torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """
        Return `sigma * noise + (1 - sigma) * sample`, with the sigma of the next evaluation.

        Before the first step, the next evaluation is the one at `begin_index`, or else the one at `timestep`. `noise`
        then also decides the fresh noise of `step`.

        Args:
            sample (`torch.Tensor` of shape [B, ...]): data.
            timestep (`float` or `torch.Tensor` of shape [B] or [1]): elements of `timesteps`.
            noise (`torch.Tensor` of the shape of `sample`): standard normal noise.

        Returns:
            `torch.Tensor` of the shape and dtype of `sample`.

        Raises:
            ValueError: if `set_timesteps` was not called or the timestep is not on the grid.
        """
        self._check_ready()
        if self._step_index is not None:
            sigma = self._sigmas[self._step_index]
        else:
            self._noise.start(noise)
            if self._begin_index is not None:
                sigma = self._sigmas[self._begin_index]
            else:
                found = [self._sigmas[self.index_for_timestep(t)] for t in torch.as_tensor(timestep).reshape(-1)]
                sigma = torch.tensor(found, device=sample.device).reshape(-1, *[1] * (sample.ndim - 1))
        return (sigma * noise.to(torch.float32) + (1 - sigma) * sample.to(torch.float32)).to(sample.dtype)

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: float | torch.Tensor
    ) -> torch.Tensor:
        """Call `scale_noise` with the argument order of the diffusion schedulers."""
        return self.scale_noise(original_samples, timesteps, noise)

    def __len__(self) -> int:
        return self.config.num_train_timesteps
