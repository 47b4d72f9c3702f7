"""Capture the arguments that a stock pipeline passes to its denoiser, by stopping its call at the first evaluation."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from .controlnets import ControlNetCall, recorded
from .guiders import turn_guiders_off

STEPS = 2
"""Number of steps of a captured call: the smallest number that every stock pipeline accepts."""


@dataclass(frozen=True)
class DenoiserCall:
    """The arguments of a denoiser's first evaluation, by name, and the noise level that its scheduler gives it.

    Attributes:
        arguments: without those that the pipeline leaves at their defaults.
        noise_level: 1 at pure noise and 0 at data; `None` if the scheduler has no sigmas.
        controlnet: the call of the pipeline's ControlNet before it; `None` if there is none.
    """

    arguments: dict[str, Any]
    noise_level: float | None
    controlnet: ControlNetCall | None = None


class _FirstEvaluation(BaseException):
    """Ends a pipeline's call. It is not an `Exception`, so that no pipeline catches it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments


@torch.no_grad()
def capture_call(pipeline: DiffusionPipeline, component_name: str, seed: int = 0, **call: Any) -> DenoiserCall:
    """Return the first call of a pipeline's denoiser. The denoiser does not run, and the pipeline does not change.

    If the call encodes an image, it encodes it to the mean of its distribution. Most pipelines draw from that distribution.

    Args:
        component_name: the denoiser.
        seed: seed of the noise.
        call: arguments of the pipeline's call.

    Raises:
        TwinFlowConfigError: if the pipeline's call fails, or ends without calling the denoiser.
    """
    denoiser = getattr(pipeline, component_name)
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]

    def stop(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _FirstEvaluation({**dict(zip(names, args)), **kwargs})

    parameters = inspect.signature(type(pipeline).__call__).parameters
    defaults = {
        "num_inference_steps": STEPS,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(seed),
    }
    call = {name: value for name, value in defaults.items() if name in parameters} | call
    hook = denoiser.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    with undisturbed(pipeline), encoding_means(getattr(pipeline, "vae", None)), recorded(pipeline) as controls, hook:
        try:
            pipeline(**call)  # type: ignore[operator]  # the base class declares no call
        except _FirstEvaluation as reached:
            level = _noise_level(pipeline.scheduler)
            return DenoiserCall(reached.arguments, level, controls[-1] if controls else None)
        except torch.OutOfMemoryError:
            raise
        except NameError as error:  # of a library that diffusers imports only if it is installed
            raise TwinFlowConfigError(
                f"{type(pipeline).__name__} cannot be used here: its call needs `{error.name}`, which is not installed. "
                f"Run: pip install {error.name}"
            ) from error
        except Exception as error:  # pipelines raise any error for their arguments
            raise TwinFlowConfigError(
                f"{type(pipeline).__name__} cannot be trained with prompts alone: its call with "
                f"{', '.join(sorted(call))} fails before it reaches its {component_name} ({type(error).__name__}: "
                f"{str(error)[:300]}). Check that the base is complete, or choose another one."
            ) from error
    raise TwinFlowConfigError(
        f"{type(pipeline).__name__} cannot be trained with prompts alone: its call never calls its {component_name}. "
        "Choose another base."
    )


@contextmanager
def encoding_means(vae: Any) -> Iterator[None]:
    """Let an autoencoder encode images of any dtype to the means of their distributions inside the block."""
    if vae is None:
        yield
        return
    encode_image = vae.encode

    def encode(pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        encoded = encode_image(pixels.to(next(vae.parameters()).dtype), *args, **kwargs)
        posterior = getattr(encoded, "latent_dist", encoded[0])
        if isinstance(posterior, DiagonalGaussianDistribution):
            posterior.var = posterior.std = torch.zeros_like(posterior.mean)
        return encoded

    with replaced_method(vae, "encode", encode):
        yield


@contextmanager
def replaced_method(module: torch.nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Give a module another method inside the block."""
    before = vars(module).get(name)
    setattr(module, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(module, name)
        else:
            setattr(module, name, before)


@contextmanager
def undisturbed(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Give the pipeline a copy of its scheduler and no progress bar inside the block, and guiders that are off."""
    scheduler = pipeline.scheduler
    shows_progress = vars(pipeline).get("_progress_bar_config")
    pipeline.scheduler = deepcopy(scheduler)
    pipeline.set_progress_bar_config(**{**(shows_progress or {}), "disable": True})
    guiders = turn_guiders_off(pipeline)
    try:
        yield
    finally:
        pipeline.scheduler = scheduler
        for name, guider in guiders.items():
            setattr(pipeline, name, guider)
        if shows_progress is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = shows_progress


def _noise_level(scheduler: Any) -> float | None:
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        return None
    sigma = float(sigmas[getattr(scheduler, "begin_index", None) or 0])
    return 1 - sigma if scheduler.config.get("invert_sigmas") else sigma
