"""Encode images and sound to samples of a stock pipeline, by the inverse of how the pipeline decodes samples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from .call_layout import describe
from .decode_capture import AUTOENCODERS, DecodedSizeError, DecodeError, Decoder, Decoding
from .encoding import LatentDistribution, to_unit_range
from .latent_map import LatentMap
from .sound import sound_input

LEVELS = 16
"""Number of values that tell places apart in one call. All are exact in bfloat16."""
LATENT_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 0.01
"""Largest rounding error of a pixel between 0 and 1, in half precision or 8 bits."""
IMAGE_NDIM = 4
RGB, RGBA = 3, 4


class AutoencoderInput(Protocol):
    """What an autoencoder encodes: pixels or sound."""

    @property
    def prepare(self) -> Any:
        """Takes a batch of data and returns the input of the autoencoder."""

    def check_decoded(self, data: torch.Tensor, decoding: Decoding) -> None:
        """Check the output of a pipeline for encoded data.

        Raises:
            DecodeError: if it is not what the autoencoder decodes.
        """


@dataclass(frozen=True)
class PixelInput:
    """Images of shape [B, 3, H, W] or videos of shape [B, 3, F, H, W] in [-1, 1].

    Attributes:
        channels: number of channels of the autoencoder's pixels: 3, or 4 with an alpha channel.
        is_video: whether the autoencoder takes videos.
    """

    channels: int
    is_video: bool

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels as the autoencoder takes them: with one frame for a video, and with an opaque alpha channel."""
        if pixels.ndim == IMAGE_NDIM and self.is_video:
            pixels = pixels.unsqueeze(2)
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1) if self.channels == RGBA else pixels

    def check_decoded(self, pixels: torch.Tensor, decoding: Decoding) -> None:
        decoded = decoding.decoded
        if decoded is None or decoded.shape != self.prepare(pixels).shape:
            raise DecodeError(
                f"it decodes {describe(decoded)} where pixels of shape {tuple(pixels.shape)} were encoded"
            )
        expected = to_unit_range(decoded.float()).cpu().movedim(1, -1).flatten()
        output = torch.as_tensor(np.asarray(decoding.output)).flatten()
        if output.shape != expected.shape or not (output - expected).abs().max() < PIXEL_TOLERANCE:
            raise DecodeError(
                "its output differs from what its autoencoder decodes, or is not in the range from -1 to 1"
            )


@dataclass(frozen=True)
class LatentCodec:
    """Encodes pixels or sound to one part of the samples of a pipeline and decodes them, with one autoencoder.

    Attributes:
        vae: the autoencoder.
        decoder: the component that decodes: the autoencoder, or a diffusion model.
        input: what it encodes.
        map: converts between the part of samples and the autoencoder's latents.
        in_steps: for each number of the part, its place in the scheduler's latents, shape [N].
        arguments: further arguments of the decoder's `decode`.
    """

    vae: Any
    decoder: Any
    input: AutoencoderInput
    map: LatentMap
    in_steps: torch.Tensor
    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def encode(self, data: torch.Tensor) -> LatentDistribution:
        """Encode data to the distribution of the part of their samples.

        Args:
            data: images, videos or waveforms, as `input` takes them.

        Raises:
            DecodedSizeError: if the pipeline decodes latents of another shape.
        """
        encoded = self.vae.encode(self.input.prepare(data).to(self.vae.dtype))
        posterior = getattr(encoded, "latent_dist", None)
        mean = encoded[0] if posterior is None else posterior.mode()
        if tuple(mean.shape[1:]) != self.map.latent_shape:
            raise DecodedSizeError(
                f"its autoencoder encodes data of shape {tuple(data.shape)} to {describe(mean)}, but its call "
                f"decodes latents of shape {(len(mean), *self.map.latent_shape)}"
            )
        std = None if posterior is None else self.map.std_to_samples(posterior.std)
        return LatentDistribution(self.map.to_samples(mean), std)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Decode the part of samples to what the autoencoder returns: pixels in [-1, 1], or spectrograms."""
        args, kwargs = self.arguments
        latents = self.map.to_latents(samples).to(self.decoder.dtype)
        return torch.cat([self.decoder.decode(each, *args, **kwargs)[0] for each in latents.split(1)])


def find_codecs(decoder: Decoder) -> tuple[LatentCodec, ...]:
    """Find how a pipeline converts each part of samples to latents of an autoencoder, and invert it.

    Two calls give the scale and the shift of each number. The other calls give its place: each call passes one digit of the
    index of each number.

    Raises:
        DecodeError: if the latents are not the sample's numbers in another order, scaled and shifted.
    """
    shown = decoder.run(0.0, decodes=True)
    inputs = [_input_of(decoder, part, each.decoded) for part, each in enumerate(shown)]
    decoder = without_decoding(decoder, shown)
    with in_float32(*decoder.autoencoders, *decoder.decoders):
        low, high = (decoder.run(value) for value in (-1.0, 1.0))
        counts = [each.stepped.numel() for each in low]
        scales = [_check_counts(decoder, name, *pair) for name, *pair in zip(AUTOENCODERS, low, high)]
        shifts = [(above.latents + below.latents).flatten() / 2 for below, above in zip(low, high)]
        indices = [torch.arange(count, device=each.latents.device) for count, each in zip(counts, low)]
        in_steps, in_latents = ([torch.zeros_like(index) for index in indices] for _ in range(2))
        digit = 1
        while digit < max(counts):
            values = [(index // digit % LEVELS).float() / (LEVELS / 2) - 1 for index in indices]
            for part, seen in enumerate(decoder.run(values)):
                in_steps[part] += _levels(seen.sample.flatten()) * digit
                in_latents[part] += _levels((seen.latents.flatten() - shifts[part]) / scales[part]) * digit
            digit *= LEVELS
    codecs = []
    modules = zip(decoder.autoencoders, decoder.decoders)
    for part, (index, (vae, decoding)) in enumerate(zip(indices, modules)):
        for name, found in ((decoder.component_name, in_steps[part]), ("autoencoder", in_latents[part])):
            if not torch.equal(found.sort()[0], index):
                raise DecodeError(f"its {name} takes other numbers than the sample's, or some of them twice")
        places = torch.empty_like(index).index_copy_(0, in_latents[part], index)[in_steps[part]]
        shapes = (tuple(low[part].sample.shape[1:]), tuple(low[part].latents.shape[1:]))
        latent_map = LatentMap(places, scales[part][places], shifts[part][places], *shapes)
        codecs.append(LatentCodec(vae, decoding, inputs[part], latent_map, in_steps[part], low[part].arguments))
    return tuple(codecs)


@torch.no_grad()
def check_round_trip(decoder: Decoder, codecs: Sequence[LatentCodec], data: Sequence[torch.Tensor]) -> None:
    """Check that a pipeline decodes encoded data as its autoencoders do.

    Args:
        decoder: the pipeline's call.
        codecs: what `find_codecs` found.
        data: one image or video in [-1, 1] of the size of a run, and a waveform if there is sound.

    Raises:
        DecodeError: if the pipeline decodes other latents, or its output has another size or range.
    """
    with in_float32(*decoder.autoencoders, *decoder.decoders):
        samples = [codec.encode(each).mean.flatten(1) for codec, each in zip(codecs, data)]
    stepped = [torch.empty_like(each).index_copy_(1, codec.in_steps, each) for codec, each in zip(codecs, samples)]
    shown = decoder.run(stepped, decodes=True)
    for codec, each, decoding in zip(codecs, data, shown):
        codec.input.check_decoded(each, decoding)
    with in_float32(*decoder.autoencoders, *decoder.decoders):
        for codec, sample, found in zip(codecs, samples, without_decoding(decoder, shown).run(stepped)):
            expected = codec.map.to_latents(sample.unflatten(1, codec.map.sample_shape))
            error = (found.latents - expected).abs().max() / expected.abs().max().clamp_min(1)
            if not error < LATENT_TOLERANCE:
                raise DecodeError(
                    f"it does not decode the latents that its autoencoder encoded (difference {error:.2g})"
                )


def _input_of(decoder: Decoder, part: int, decoded: torch.Tensor | None) -> AutoencoderInput:
    """Return what the autoencoder of one part of a sample encodes, from what it decodes."""
    if part:
        return sound_input(decoder.autoencoders[part], getattr(decoder.pipeline, "vocoder", None), decoded)
    if decoded is None or decoded.ndim < IMAGE_NDIM or decoded.shape[1] not in (RGB, RGBA):
        raise DecodeError(f"its autoencoder decodes {describe(decoded)}, and not images or videos in color")
    return PixelInput(decoded.shape[1], is_video=decoded.ndim > IMAGE_NDIM)


def without_decoding(decoder: Decoder, shown: Sequence[Decoding]) -> Decoder:
    """Return the decoder with stand-ins for what its autoencoders return, in calls that need no pixels and sound.

    Args:
        shown: a run of the autoencoders.
    """
    decoded = [each.decoded for each in shown]
    stand_ins = tuple(None if each is None else each.new_zeros(()).expand(each.shape) for each in decoded)
    return replace(decoder, stand_ins=stand_ins)


def _check_counts(decoder: Decoder, name: str, low: Decoding, high: Decoding) -> torch.Tensor:
    """Return the scale of each number of a part of a sample.

    Raises:
        DecodeError: if the autoencoder takes other numbers than the denoiser.
    """
    count = low.stepped.numel()
    if not low.sample.numel() == low.latents.numel() == count or not len(low.sample) == len(low.latents) == 1:
        raise DecodeError(
            f"its {decoder.component_name} takes {describe(low.sample)}, its scheduler {describe(low.stepped)} and its "
            f"`{name}` {describe(low.latents)} for one sample"
        )
    scale = (high.latents - low.latents).flatten() / 2
    if not scale.all():
        raise DecodeError(f"some of the numbers that its `{name}` decodes do not depend on the sample")
    return scale


@contextmanager
def in_float32(*modules: torch.nn.Module) -> Iterator[None]:
    """Keep the weights of networks in float32 inside the block. Pipelines then convert latents to float32 too."""
    tensors = [
        each
        for module in dict.fromkeys(modules)
        for each in (*module.parameters(), *module.buffers())
        if each.is_floating_point()
    ]
    dtypes = [each.dtype for each in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes):
            tensor.data = tensor.data.to(dtype)


def _levels(values: torch.Tensor) -> torch.Tensor:
    return ((values.float() + 1) * (LEVELS / 2)).round().long()
