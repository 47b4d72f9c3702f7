"""Find how a stock pipeline decodes samples, by running its call with chosen latents instead of denoised ones.

The denoiser does not run. The scheduler's `step` returns the chosen latents, so the pipeline passes them to its denoiser in
the next step and to its autoencoder after the last one.
"""

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from .call_capture import STEPS, replaced_method, undisturbed
from .sample_place import SamplePlace
from .second_denoiser import second_of


class DecodeError(ValueError):
    """Raised if the decoding of a pipeline cannot be inverted. The message says what was seen."""


class DecodedSizeError(DecodeError):
    """Raised if a pipeline decodes samples of another size than it was asked for."""


@dataclass(frozen=True)
class Decoding:
    """How a pipeline decodes chosen latents.

    Attributes:
        stepped: the latents that the scheduler returned.
        sample: the same as the denoiser's sample.
        latents: the same as the autoencoder's latents.
        arguments: further arguments of the autoencoder's `decode`.
        decoded: what the autoencoder returned; `None` if it was not run.
        output: the first output of the pipeline; `None` if the autoencoder was not run.
    """

    stepped: torch.Tensor
    sample: torch.Tensor
    latents: torch.Tensor
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    decoded: torch.Tensor | None = None
    output: Any = None


class _Decoded(BaseException):
    """Ends a pipeline's call before it decodes."""


class _Output(tuple):
    """A denoiser's or a scheduler's output, by index and by the names that pipelines use."""

    @property
    def sample(self) -> Any:
        return self[0]

    prev_sample = sample


@dataclass(frozen=True)
class Decoder:
    """A pipeline's call, from the latents after its last step to its output.

    Attributes:
        pipeline: the base, with its autoencoder on the device.
        component_name: the denoiser. A second one for low noise is treated alike.
        place: where samples are in the denoiser's call.
        call: arguments of the pipeline's call for one sample.
        further_outputs: how many outputs besides the sample the denoiser returns.
    """

    pipeline: DiffusionPipeline
    component_name: str
    place: SamplePlace
    call: dict[str, Any]
    further_outputs: int = 0

    @torch.no_grad()
    def run(self, values: torch.Tensor | float, *, decodes: bool = False) -> Decoding:
        """Call the pipeline with chosen latents. The pipeline is left as it was.

        Args:
            values: the chosen latents: as many numbers as there are, in float32, or one for all.
            decodes: run the autoencoder and what follows it.

        Raises:
            DecodeError: if the call does not take chosen latents from the scheduler to the denoiser and the autoencoder.
        """
        pipeline, place = self.pipeline, self.place
        denoiser, vae = getattr(pipeline, self.component_name), pipeline.vae
        names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
        seen: dict[str, Any] = {}

        def forward(*args: Any, **kwargs: Any) -> _Output:
            value = {**dict(zip(names, args)), **kwargs}[place.argument]
            whole = torch.stack(list(value)) if place.kind else value
            sample = place.of(whole)
            if "stepped" in seen:
                seen["sample"] = sample
            output = torch.zeros_like(whole if place.is_among_tokens else sample)
            first = place.kind(output.unbind(0)) if place.kind else output
            return _Output((first, *[None] * self.further_outputs))

        def decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if "latents" in seen:
                raise DecodeError("it decodes a sample in several parts")
            seen["latents"], seen["arguments"] = latents, (args, kwargs)
            if not decodes:
                raise _Decoded
            decoded = run_decoder(latents, *args, **kwargs)
            seen["decoded"] = decoded[0]
            return decoded

        defaults = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(0)}
        parameters = inspect.signature(type(pipeline).__call__).parameters
        call = {name: value for name, value in defaults.items() if name in parameters} | self.call
        with undisturbed(pipeline):
            step = inspect.signature(pipeline.scheduler.step)

            def return_chosen(*args: Any, **kwargs: Any) -> _Output:
                sample = step.bind(*args, **kwargs).arguments["sample"]
                chosen = torch.as_tensor(values, dtype=torch.float32, device=sample.device)
                seen["stepped"] = chosen.reshape(sample.shape) if chosen.ndim else chosen.expand(sample.shape)
                return _Output((seen["stepped"],))

            run_decoder = vae.decode
            pipeline.scheduler.step = return_chosen
            with ExitStack() as methods:
                for each in filter(None, (denoiser, second_of(pipeline))):
                    own = wraps(each.forward)(forward)  # blocks pass only what the signature has
                    methods.enter_context(replaced_method(each, "forward", own))
                methods.enter_context(replaced_method(vae, "decode", decode))
                try:
                    seen["output"] = pipeline(**call | {"output_type": "np"})[0]  # type: ignore[operator]
                except _Decoded:
                    pass
                except (torch.OutOfMemoryError, DecodeError):
                    raise
                except Exception as error:  # pipelines raise any error
                    raise DecodeError(
                        f"its call fails with chosen latents ({type(error).__name__}: {str(error)[:300]})"
                    ) from error
        if "latents" not in seen:
            raise DecodeError("its call ends without `vae.decode`")
        if "sample" not in seen:
            raise DecodeError(f"its {self.component_name} is not called after a step of the scheduler")
        return Decoding(**seen)
