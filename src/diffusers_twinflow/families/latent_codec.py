"""Encode images to samples of a stock pipeline, by the inverse of how the pipeline decodes samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .call_layout import describe
from .decode_capture import DecodedSizeError, DecodeError, Decoder
from .encoding import LatentDistribution, to_unit_range
from .latent_map import LatentMap

LEVELS = 16
"""Number of values that tell places apart in one call. All are exact in bfloat16."""
LATENT_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 0.01
"""Largest rounding error of a pixel between 0 and 1, in half precision or 8 bits."""
IMAGE_NDIM = 4
RGB, RGBA = 3, 4


@dataclass(frozen=True)
class LatentCodec:
    """Encodes pixels to the samples of a pipeline and decodes them, with the pipeline's autoencoder.

    Attributes:
        decoder: the pipeline's call.
        map: converts between samples and the autoencoder's latents.
        in_steps: for each number of a sample, its place in the scheduler's latents, shape [N].
        arguments: further arguments of the autoencoder's `decode`.
        channels: number of channels of the autoencoder's pixels: 3, or 4 with an alpha channel.
    """

    decoder: Decoder
    map: LatentMap
    in_steps: torch.Tensor
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    channels: int

    def encode(self, pixels: torch.Tensor) -> LatentDistribution:
        """Encode pixels in [-1, 1] to the distribution of their samples.

        Args:
            pixels: images of shape [B, 3, H, W] or videos of shape [B, 3, F, H, W].

        Raises:
            DecodedSizeError: if the pipeline decodes latents of another shape.
        """
        vae = self.decoder.pipeline.vae
        pixels = self._as_decoded(pixels)
        encoded = vae.encode(pixels.to(vae.dtype))
        posterior = getattr(encoded, "latent_dist", None)
        mean = encoded[0] if posterior is None else posterior.mode()
        if tuple(mean.shape[1:]) != self.map.latent_shape:
            raise DecodedSizeError(
                f"its autoencoder encodes pixels of shape {tuple(pixels.shape)} to {describe(mean)}, but its call "
                f"decodes latents of shape {(len(mean), *self.map.latent_shape)}"
            )
        std = None if posterior is None else self.map.std_to_samples(posterior.std)
        return LatentDistribution(self.map.to_samples(mean), std)

    def _as_decoded(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels as the autoencoder takes them: with one frame for a video, and with an opaque alpha channel."""
        if pixels.ndim == IMAGE_NDIM and len(self.map.latent_shape) == IMAGE_NDIM:
            pixels = pixels.unsqueeze(2)
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1) if self.channels == RGBA else pixels

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Decode samples to the autoencoder's pixels in [-1, 1]."""
        vae, (args, kwargs) = self.decoder.pipeline.vae, self.arguments
        latents = self.map.to_latents(samples).to(vae.dtype)
        return torch.cat([vae.decode(each, *args, **kwargs)[0][:, :RGB] for each in latents.split(1)])

    @torch.no_grad()
    def check_round_trip(self, pixels: torch.Tensor) -> None:
        """Check that the pipeline decodes an encoded image as the autoencoder does.

        Args:
            pixels: one image or video in [-1, 1], of the size of a run.

        Raises:
            DecodeError: if the pipeline decodes other latents, or its output has another size or range.
        """
        with in_float32(self.decoder.pipeline.vae):
            samples = self.encode(pixels).mean.flatten(1)
            stepped = torch.empty_like(samples).index_copy_(1, self.in_steps, samples)
            found = self.decoder.run(stepped).latents
            expected = self.map.to_latents(samples.unflatten(1, self.map.sample_shape))
            error = (found - expected).abs().max() / expected.abs().max().clamp_min(1)
            if not error < LATENT_TOLERANCE:
                raise DecodeError(f"it decodes other latents than those of an image that was encoded, by {error:.2g}")
        decoding = self.decoder.run(stepped, decodes=True)
        decoded = decoding.decoded
        if decoded is None or decoded.shape != self._as_decoded(pixels).shape:
            raise DecodeError(
                f"it decodes {describe(decoded)} where pixels of shape {tuple(pixels.shape)} were encoded"
            )
        expected = to_unit_range(decoded.float()).cpu().movedim(1, -1).flatten()
        output = torch.as_tensor(np.asarray(decoding.output)).flatten()
        if output.shape != expected.shape or not (output - expected).abs().max() < PIXEL_TOLERANCE:
            raise DecodeError("its output is not what its autoencoder decodes, in the range from -1 to 1")


@contextmanager
def in_float32(module: torch.nn.Module) -> Iterator[None]:
    """Keep a network's weights in float32 inside the block. Pipelines then convert latents to float32 too."""
    tensors = [each for each in (*module.parameters(), *module.buffers()) if each.is_floating_point()]
    dtypes = [each.dtype for each in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes):
            tensor.data = tensor.data.to(dtype)


def find_codec(decoder: Decoder) -> LatentCodec:
    """Find how a pipeline converts samples to the autoencoder's latents, and invert it.

    Two calls give the scale and the shift of each number. The other calls give its place: each call passes one digit of the
    index of each number.

    Raises:
        DecodeError: if the latents are not the sample's numbers in another order, scaled and shifted.
    """
    decoded = decoder.run(0.0, decodes=True).decoded
    if decoded is None or decoded.ndim < IMAGE_NDIM or decoded.shape[1] not in (RGB, RGBA):
        raise DecodeError(f"its autoencoder decodes {describe(decoded)}, and not images or videos in colour")
    with in_float32(decoder.pipeline.vae):
        low, high = (decoder.run(value) for value in (-1.0, 1.0))
        count = low.stepped.numel()
        if not low.sample.numel() == low.latents.numel() == count or not len(low.sample) == len(low.latents) == 1:
            raise DecodeError(
                f"its {decoder.component_name} takes {describe(low.sample)}, its scheduler {describe(low.stepped)} and its "
                f"autoencoder {describe(low.latents)} for one sample"
            )
        scale, shift = (high.latents - low.latents).flatten() / 2, (high.latents + low.latents).flatten() / 2
        if not scale.all():
            raise DecodeError("some of the numbers that its autoencoder decodes do not depend on the sample")
        index = torch.arange(count, device=low.latents.device)
        in_steps, in_latents = torch.zeros_like(index), torch.zeros_like(index)
        digit = 1
        while digit < count:
            values = (index // digit % LEVELS).float() / (LEVELS / 2) - 1
            seen = decoder.run(values)
            in_steps += _levels(seen.sample.flatten()) * digit
            in_latents += _levels((seen.latents.flatten() - shift) / scale) * digit
            digit *= LEVELS
    for name, found in ((decoder.component_name, in_steps), ("autoencoder", in_latents)):
        if not torch.equal(found.sort()[0], index):
            raise DecodeError(f"its {name} takes more than the sample's numbers in another order")
    places = torch.empty_like(index).index_copy_(0, in_latents, index)[in_steps]
    shapes = (tuple(low.sample.shape[1:]), tuple(low.latents.shape[1:]))
    latent_map = LatentMap(places, scale[places], shift[places], *shapes)
    return LatentCodec(decoder, latent_map, in_steps, low.arguments, decoded.shape[1])


def _levels(values: torch.Tensor) -> torch.Tensor:
    return ((values.float() + 1) * (LEVELS / 2)).round().long()
