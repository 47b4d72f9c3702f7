"""Encode images, or videos with sound, to whole samples of a stock pipeline."""

from dataclasses import dataclass

import torch

from .decode_capture import Decoder
from .encoding import LatentDistribution
from .latent_codec import RGB, LatentCodec, check_round_trip, find_codecs
from .sound import SoundFormat, SoundInput


@dataclass(frozen=True)
class SampleCodec:
    """The codecs of all parts of a pipeline's samples.

    Attributes:
        pixels: the codec of images or videos.
        sound: the codec of their sound; `None` if the pipeline generates no sound.
        sound_format: the waveforms that `sound` encodes.
    """

    pixels: LatentCodec
    sound: LatentCodec | None = None
    sound_format: SoundFormat | None = None

    def encode(self, pixels: torch.Tensor, sound: torch.Tensor | None = None) -> LatentDistribution:
        """Encode a batch to the distribution of its samples. A sample of several parts is the row of all their numbers.

        Args:
            pixels: pixels in [-1, 1], shape [B, 3, H, W] or [B, 3, F, H, W].
            sound: waveforms in `sound_format`, shape [B, channels, samples]. Defaults to silence.
        """
        if self.sound is None or self.sound_format is None:
            return self.pixels.encode(pixels)
        if sound is None:
            sound = self.sound_format.silence(len(pixels), pixels.device)
        parts = [self.pixels.encode(pixels), self.sound.encode(sound)]
        mean = torch.cat([part.mean.flatten(1) for part in parts], dim=1)
        if all(part.std is None for part in parts):
            return LatentDistribution(mean)
        stds = [torch.zeros_like(part.mean) if part.std is None else part.std for part in parts]
        return LatentDistribution(mean, torch.cat([std.flatten(1) for std in stds], dim=1))

    def decode_pixels(self, samples: torch.Tensor) -> torch.Tensor:
        """Decode the pixels' part of samples to pixels in [-1, 1]."""
        return self.pixels.decode(samples)[:, :RGB]


def find_sample_codec(decoder: Decoder, pixels: torch.Tensor) -> SampleCodec:
    """Find how samples are decoded, and check that encoding is the inverse of it, with an image and with a sound.

    Args:
        decoder: the pipeline's call for one sample.
        pixels: one image or video in [-1, 1], of the size of the samples.

    Raises:
        DecodeError: if it is not, with what was seen.
    """
    devices = [vae.device for vae in decoder.autoencoders]
    codecs = find_codecs(decoder)
    data, sound_format = [pixels.to(devices[0])], None
    for codec, device in zip(codecs[1:], devices[1:]):
        if isinstance(codec.input, SoundInput):
            sound_format = codec.input.format
            noise = torch.rand(sound_format.silence(1).shape, generator=torch.Generator().manual_seed(0))
            data.append((noise * 2 - 1).to(device))
    check_round_trip(decoder, codecs, data)
    return SampleCodec(codecs[0], codecs[1] if sound_format is not None else None, sound_format)
