"""How the sound of a video is encoded: the waveform that an audio autoencoder needs, as the input that it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers.audio_utils import mel_filter_bank

from .call_layout import describe
from .decode_capture import AUTOENCODERS, DecodeError, Decoding

SILENCE = 1e-5
"""Smallest magnitude in a log-mel spectrogram."""
WINDOW = 1024
"""Samples per Fourier transform. No config has this number."""


@dataclass(frozen=True)
class SoundFormat:
    """The waveform that belongs to one video.

    Attributes:
        sample_rate: samples per second.
        channels: 1 for mono, 2 for stereo.
        num_samples: length of the waveform, from the first frame of the video on.
    """

    sample_rate: int
    channels: int
    num_samples: int

    def silence(self, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return silent waveforms, shape [count, channels, num_samples]."""
        return torch.zeros(count, self.channels, self.num_samples, device=device)


@dataclass(frozen=True)
class SoundInput:
    """Converts waveforms to the input of an audio autoencoder, and checks what a pipeline decodes.

    Attributes:
        format: the waveforms.
        prepare: takes waveforms of shape [B, channels, num_samples] and returns the input of the autoencoder.
        num_seconds: duration of the sound that the pipeline generates.
        vocoder_rate: samples per second of the sound that the pipeline returns.
    """

    format: SoundFormat
    prepare: Callable[[torch.Tensor], torch.Tensor]
    num_seconds: float
    vocoder_rate: int

    def check_decoded(self, data: torch.Tensor, decoding: Decoding) -> None:
        """Check that a pipeline decodes a sound to as much sound as was encoded.

        Raises:
            DecodeError: if it does not.
        """
        decoded, output = decoding.decoded, decoding.output
        count = torch.as_tensor(output).shape[-1]
        if count != round(self.num_seconds * self.vocoder_rate):
            raise DecodeError(
                f"it decodes {describe(decoded)} to {count} samples of sound at {self.vocoder_rate} per second, but "
                f"{self.num_seconds:.3g} seconds were encoded"
            )


def sound_input(vae: Any, vocoder: Any, decoded: torch.Tensor | None) -> SoundInput:
    """Return how an audio autoencoder is given waveforms.

    Args:
        vae: the autoencoder.
        vocoder: the component that converts its output to waveforms.
        decoded: what the autoencoder decodes for one video.

    Raises:
        DecodeError: if its input is not known.
    """
    find = INPUTS.get(type(vae).__name__)
    if find is None or decoded is None:
        raise DecodeError(
            f"how waveforms are converted for its `{AUTOENCODERS[1]}`, a {type(vae).__name__}, is not known. Known are "
            f"{' and '.join(INPUTS)}"
        )
    sample_format, prepare, num_samples = find(vae.config, decoded)
    rate = sample_format.sample_rate
    vocoder_rate = getattr(getattr(vocoder, "config", None), "output_sampling_rate", rate)
    return SoundInput(sample_format, prepare, num_samples / rate, vocoder_rate)


Found = tuple[SoundFormat, Callable[[torch.Tensor], torch.Tensor], int]
"""A format, the conversion, and the number of samples that the decoded spectrogram stands for."""


def _log_mel(config: Any, decoded: torch.Tensor) -> Found:
    """For autoencoders of log-mel spectrograms [B, channels, frames, bands], with a frame around sample 0."""
    rate, hop, frames = config.sample_rate, config.mel_hop_length, decoded.shape[2]
    bands = config.mel_bins or decoded.shape[3]

    def prepare(waveform: torch.Tensor) -> torch.Tensor:
        return log_mel(waveform, sample_rate=rate, hop=hop, bands=bands)[:, :, :frames]

    num_samples = (frames - 1) * hop + WINDOW // 2 + 1  # the last window ends there
    return SoundFormat(rate, config.in_channels, num_samples), prepare, frames * hop


def _waveform(config: Any, decoded: torch.Tensor) -> Found:
    """For autoencoders that take mono waveforms [B, samples] and decode spectrograms [B, bands, frames]."""
    num_samples = decoded.shape[-1] * config.hop_length
    return SoundFormat(config.sample_rate, 1, num_samples), lambda waveform: waveform[:, 0], num_samples


INPUTS: dict[str, Callable[[Any, torch.Tensor], Found]] = {
    "AutoencoderKLLTX2Audio": _log_mel,
    "MMAudioVAE": _waveform,
}


def log_mel(waveform: torch.Tensor, *, sample_rate: int, hop: int, bands: int) -> torch.Tensor:
    """Return the log-mel spectrogram of waveforms, in float32.

    It has centered Hann windows, magnitudes, and bands of Slaney's mel scale with equal areas, up to half the sample rate.

    Args:
        waveform: shape [B, channels, samples].
        sample_rate: samples per second.
        hop: samples per frame.
        bands: number of mel bands.

    Returns:
        Shape [B, channels, frames, bands].
    """
    with torch.autocast(waveform.device.type, enabled=False):
        window, filters = _window_and_filters(sample_rate, bands, waveform.device)
        spectrum = torch.stft(
            waveform.float().flatten(0, 1), WINDOW, hop, window=window, pad_mode="reflect", return_complex=True
        )
        mel = spectrum.abs().transpose(1, 2) @ filters
        return mel.clamp_min(SILENCE).log().unflatten(0, waveform.shape[:2])


@lru_cache(maxsize=4)
def _window_and_filters(sample_rate: int, bands: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute them once per device, because sending them makes the CPU wait."""
    filters = mel_filter_bank(
        num_frequency_bins=WINDOW // 2 + 1,
        num_mel_filters=bands,
        min_frequency=0.0,
        max_frequency=sample_rate / 2,
        sampling_rate=sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, device=device), torch.tensor(filters, dtype=torch.float32, device=device)
