"""Find how a stock pipeline decodes samples, by running its call with chosen latents instead of denoised ones.

The denoiser does not run. The scheduler's `step` returns the chosen latents, so the pipeline passes them to its denoiser in
the next step and to its autoencoder after the last one. If a sample has several parts, such as a video and its sound, the
pipeline steps each part in turn, and decodes each with another autoencoder.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..nested import map_tensors
from .call_capture import STEPS, replaced_method, undisturbed
from .sample_place import SamplePlace
from .second_denoiser import second_of


class DecodeError(ValueError):
    """Raised if the decoding of a pipeline cannot be inverted. The message says what was seen."""


class DecodedSizeError(DecodeError):
    """Raised if a pipeline decodes samples of another size than it was asked for."""


AUTOENCODERS = ("vae", "audio_vae")
"""Components that encode the parts of a sample: images or videos, and sound. Most also decode them."""
DIFFUSION_DECODER = "diffusion_decoder"
"""Component that decodes the latents of the first autoencoder, in pipelines that decode with a diffusion model."""


@dataclass(frozen=True)
class Decoding:
    """How a pipeline decodes chosen latents of one part of a sample.

    Attributes:
        stepped: the latents that the scheduler returned.
        sample: the same as the denoiser's sample.
        latents: the same as the autoencoder's latents.
        arguments: further arguments of the autoencoder's `decode`.
        decoded: what the autoencoder returned; `None` if it was not run.
        output: what the pipeline returned; `None` if the autoencoder was not run.
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
    """The output of a denoiser, a scheduler or an autoencoder, by index and by the names that pipelines use."""

    @property
    def sample(self) -> Any:
        return self[0]

    prev_sample = sample


class _Exact(torch.Tensor):
    """A tensor in float32 that a pipeline does not round.

    Conversions to half precision leave it as it is, and a tensor in half precision that it is written into becomes one in
    float32. Some pipelines convert latents to the dtype of their prompts before they scale them.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__setitem__ and args[0].dtype in HALVES:
            args[0].data = args[0].data.float()
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func in CONVERSIONS and isinstance(args[0], cls) and getattr(result, "dtype", None) in HALVES:
            return _exact(_plain(args[0]).to(result.device))
        return result


HALVES = (torch.float16, torch.bfloat16)
CONVERSIONS = (torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as, torch.Tensor.half, torch.Tensor.bfloat16)


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(_Exact)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)


def to_dtype_of_weights(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Convert the inputs of a network in half precision, such as a ControlNet, which come from autoencoders in float32."""
    dtype = getattr(module, "dtype", None)

    def converted(tensor: torch.Tensor) -> torch.Tensor:
        return _plain(tensor).to(dtype) if tensor.dtype == torch.float32 else tensor

    return (args, kwargs) if dtype not in HALVES else map_tensors(converted, (args, kwargs))


@dataclass(frozen=True)
class Decoder:
    """A pipeline's call, from the latents after its last step to its output.

    Attributes:
        pipeline: the base, with its autoencoders on the device.
        component_name: the denoiser. A second one for low noise is treated alike.
        places: where the parts of a sample are in the denoiser's call.
        call: arguments of the pipeline's call for one sample.
        further_outputs: how many outputs besides the sample the denoiser returns.
        stand_ins: what the autoencoders return if they are not run, as far as the pipeline needs it to continue.
    """

    pipeline: DiffusionPipeline
    component_name: str
    places: tuple[SamplePlace, ...]
    call: dict[str, Any]
    further_outputs: int = 0
    stand_ins: tuple[torch.Tensor | None, ...] = ()

    @property
    def autoencoders(self) -> tuple[Any, ...]:
        """The autoencoder of each part.

        Raises:
            DecodeError: if one is missing.
        """
        names = AUTOENCODERS[: len(self.places)]
        missing = [name for name in names if getattr(self.pipeline, name, None) is None]
        if missing:
            raise DecodeError(f"it has no `{missing[0]}`")
        return tuple(getattr(self.pipeline, name) for name in names)

    @property
    def decoders(self) -> tuple[Any, ...]:
        """The component that decodes each part: its autoencoder, or a diffusion model."""
        first, *others = self.autoencoders
        return getattr(self.pipeline, DIFFUSION_DECODER, None) or first, *others

    @torch.no_grad()
    def run(self, values: Sequence[torch.Tensor] | float, *, decodes: bool = False) -> tuple[Decoding, ...]:
        """Call the pipeline with chosen latents. The pipeline is left as it was.

        If the autoencoders do not run, the latents are not rounded to half precision on their way.

        Args:
            values: the chosen latents of each part: as many numbers as there are, in float32; or one number for all.
            decodes: run the autoencoders and what follows them.

        Returns:
            One `Decoding` per part.

        Raises:
            DecodeError: if the call does not take chosen latents from the scheduler to the denoiser and the autoencoders.
        """
        pipeline = self.pipeline
        denoiser = getattr(pipeline, self.component_name)
        seen = _Seen(self, values, decodes)
        defaults = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(0)}
        parameters = inspect.signature(type(pipeline).__call__).parameters
        call = {name: value for name, value in defaults.items() if name in parameters} | self.call
        output: Any = None
        with undisturbed(pipeline):
            pipeline.scheduler.step = seen.step_of(pipeline.scheduler)
            with ExitStack() as methods:
                for each in filter(None, (denoiser, second_of(pipeline))):
                    own = wraps(each.forward)(seen.forward_of(denoiser))  # blocks pass only what the signature has
                    methods.enter_context(replaced_method(each, "forward", own))
                for each in pipeline.components.values() if not decodes else ():
                    if isinstance(each, torch.nn.Module):
                        methods.enter_context(each.register_forward_pre_hook(to_dtype_of_weights, with_kwargs=True))
                for vae in self.autoencoders:
                    methods.enter_context(replaced_method(vae, "encode", encode_in_dtype(vae)))
                for part, each in enumerate(self.decoders):
                    methods.enter_context(replaced_method(each, "decode", seen.decode_of(part, each.decode)))
                try:
                    output = pipeline(**call | {"output_type": "np"})  # type: ignore[operator]
                except _Decoded:
                    pass
                except (torch.OutOfMemoryError, DecodeError):
                    raise
                except Exception as error:  # pipelines raise any error
                    raise DecodeError(
                        f"its call fails with chosen latents ({type(error).__name__}: {str(error)[:300]})"
                    ) from error
        return seen.decodings(output)


def encode_in_dtype(vae: Any) -> Callable[..., Any]:
    """Return an autoencoder's `encode` that converts images to the dtype of the weights, which may not be the pipeline's."""
    encode = vae.encode

    def encode_converted(images: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return encode(images.to(vae.dtype), *args, **kwargs)

    return encode_converted


class _Seen:
    """Replaces methods of a pipeline's components, and records what they are given for each part of a sample."""

    def __init__(self, decoder: Decoder, values: Sequence[torch.Tensor] | float, decodes: bool) -> None:
        self.decoder, self.values, self.decodes = decoder, values, decodes
        self.parts: list[dict[str, Any]] = [{} for _ in decoder.places]
        self.turn = 0

    def forward_of(self, denoiser: torch.nn.Module) -> Callable[..., _Output]:
        """Return a `forward` that predicts zeros."""
        names = list(inspect.signature(type(denoiser).forward).parameters)[1:]

        def forward(*args: Any, **kwargs: Any) -> _Output:
            arguments = {**dict(zip(names, args)), **kwargs}
            self.turn = 0
            outputs = []
            for part, place in zip(self.parts, self.decoder.places):
                value = arguments[place.argument]
                whole = torch.stack(list(value)) if place.kind else value
                sample = place.of(whole)
                if "stepped" in part:
                    part["sample"] = _plain(sample)
                output = torch.zeros_like(whole if place.is_among_tokens else sample)
                outputs.append(place.kind(output.unbind(0)) if place.kind else output)
            return _Output((*outputs, *[None] * self.decoder.further_outputs))

        return forward

    def step_of(self, scheduler: Any) -> Callable[..., _Output]:
        """Return a `step` that returns the chosen latents. A pipeline steps the parts in the order of their places."""
        signature = inspect.signature(scheduler.step)

        def step(*args: Any, **kwargs: Any) -> _Output:
            sample = signature.bind(*args, **kwargs).arguments["sample"]
            index = self.turn % len(self.parts)
            self.turn += 1
            values = self.values if isinstance(self.values, (int, float)) else self.values[index]
            chosen = torch.as_tensor(values, dtype=torch.float32, device=sample.device)
            stepped = chosen.reshape(sample.shape) if chosen.ndim else chosen.expand(sample.shape)
            self.parts[index]["stepped"] = stepped
            return _Output((stepped.to(sample.dtype) if self.decodes else _exact(stepped),))

        return step

    def decode_of(self, index: int, run_decoder: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `decode` of the autoencoder of one part, which runs only if it has to."""
        part = self.parts[index]

        def decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if "latents" in part:
                raise DecodeError("it decodes a sample in several calls")
            latents = _plain(latents)
            part["latents"], part["arguments"] = latents, (args, kwargs)
            if not self.decodes and all("latents" in each for each in self.parts):
                raise _Decoded
            stand_in = self.decoder.stand_ins[index] if self.decoder.stand_ins else None
            if not self.decodes and stand_in is not None:
                return _Output((stand_in,))
            decoded = run_decoder(latents, *args, **kwargs)
            part["decoded"] = decoded[0]
            return decoded

        return decode

    def decodings(self, output: Any) -> tuple[Decoding, ...]:
        """
        Args:
            output: what the pipeline returned; `None` if its call was ended.

        Raises:
            DecodeError: if a part was not seen on its whole way.
        """
        component_name = self.decoder.component_name
        for name, part in zip(AUTOENCODERS, self.parts):
            if "latents" not in part:
                raise DecodeError(f"its call ends without `{name}.decode`")
            if "sample" not in part:
                raise DecodeError(f"its {component_name} is not called after a step of the scheduler")
        return tuple(
            Decoding(**part, output=None if output is None else output[index]) for index, part in enumerate(self.parts)
        )
