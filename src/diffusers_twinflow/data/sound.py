"""Read the sound of clips."""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..families.sound import SoundFormat
from .batches import PART_WEIGHTS
from .clips import Clip, animation_in, open_container
from .images import source_of

if TYPE_CHECKING:
    from av.container import InputContainer

LONGEST_GAP = 0.1
"""Seconds without sound after which sound is placed by its time. Shorter ones are rounding errors of the times."""
CHECKED = SoundFormat(sample_rate=16_000, channels=1, num_samples=1)
"""The format in which sound is decoded to check it."""


def check_sound(value: dict | list, clip: Clip | None) -> None:
    """Decode the sound of a clip, if it is used.

    Raises:
        Exception: if it is damaged, any error of the decoder.
    """
    if clip is not None and clip.sound_fps:
        count = int(clip.num_frames / clip.sound_fps * CHECKED.sample_rate)
        read_sound(value, clip, SoundFormat(CHECKED.sample_rate, CHECKED.channels, max(count, 1)))


def sound_of(value: dict | list, clip: Clip | None, sound_format: SoundFormat) -> dict[str, torch.Tensor]:
    """Return the entries of a sample for the sound of its clip.

    Args:
        value: `{"bytes", "path"}` of a video file, or a list of such dictionaries, one per frame.
        clip: the part of the video to train on; `None` for an image.

    Returns:
        The waveform as `"sound"`, shape [channels, samples], and the weights of image and sound in the loss. Without a sound
        track, the waveform is silent and its weight is 0.
    """
    waveform = read_sound(value, clip, sound_format)
    weights = torch.tensor([1.0, 0.0 if waveform is None else 1.0])
    silence = sound_format.silence(1)[0]
    return {"sound": silence if waveform is None else torch.from_numpy(waveform), PART_WEIGHTS: weights}


def read_sound(value: dict | list, clip: Clip | None, sound_format: SoundFormat) -> np.ndarray | None:
    """Decode the sound of a clip from its first frame on. Gaps in the sound track are silent.

    Returns:
        Shape [channels, samples]; `None` if there is no sound track.
    """
    if clip is None or isinstance(value, list):
        return None
    if (picture := animation_in(value)) is not None:
        picture.close()
        return None
    with open_container(source_of(value)) as container:
        if not container.streams.audio:
            return None
        video = container.streams.video[0]
        start = float((video.start_time or 0) * (video.time_base or 0))
        return _placed(_blocks(container, sound_format), start, sound_format)


def _placed(
    blocks: Iterator[tuple[float | None, np.ndarray]], start: float, sound_format: SoundFormat
) -> np.ndarray | None:
    """Join blocks of sound.

    Args:
        blocks: the time in seconds and the sound of each block, shape [channels, samples].
        start: time of sample 0.
    """
    rate, count = sound_format.sample_rate, sound_format.num_samples
    waveform, end, is_empty = np.zeros((sound_format.channels, count), dtype=np.float32), 0, True
    for time, block in blocks:
        place = end if time is None else round((time - start) * rate)
        if is_empty or abs(place - end) > LONGEST_GAP * rate:
            end = place
        is_empty = False
        if end >= count:
            break
        first, last = max(end, 0), min(max(end + block.shape[1], 0), count)
        if last > first:
            waveform[:, first:last] = block[:, first - end : last - end]
        end += block.shape[1]
    return None if is_empty else waveform.clip(-1, 1)


def _blocks(container: "InputContainer", sound_format: SoundFormat) -> Iterator[tuple[float | None, np.ndarray]]:
    """Yield the sound of a file in a format, with its times. Mono is copied to all channels, and mono is their mean."""
    import av

    resampler = None
    for frame in chain(container.decode(audio=0), [None]):
        if resampler is None:
            if frame is None:
                return
            layout = "stereo" if len(frame.layout.channels) > 2 else None
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=sound_format.sample_rate)
        for part in resampler.resample(frame):
            block = part.to_ndarray()
            if len(block) != sound_format.channels:
                block = np.broadcast_to(block.mean(0, keepdims=True), (sound_format.channels, block.shape[1]))
            yield part.time, block
