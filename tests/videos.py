"""Small real videos, written frame by frame."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

CODECS = {".mp4": ("libx264", "yuv420p"), ".mkv": ("libx264", "yuv420p"), ".webm": ("libvpx-vp9", "yuv420p")}


def frames(count: int, size: tuple[int, int] = (32, 32), first: int = 0) -> list[Image.Image]:
    """Grey frames that tell their number: 20 times it, as bright; size is (width, height)."""
    return [Image.new("RGB", size, (20 * (first + i),) * 3) for i in range(count)]


def numbers(images: list[Image.Image]) -> list[int]:
    """What `frames` wrote into them, which survives compression."""
    return [round(np.asarray(image.convert("L")).mean() / 20) for image in images]


SOUND_RATE = 48_000


def tone(seconds: float, hertz: float = 440.0, channels: int = 2, volume: float = 0.5) -> np.ndarray:
    """A sine of `SOUND_RATE`, shape [channels, samples]. The second channel is half as loud."""
    wave = volume * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE)
    return np.stack([wave / (1 + i) for i in range(channels)]).astype(np.float32)


def write_video(
    path: Path, images: list[Image.Image], fps: int = 10, sound: np.ndarray | None = None, sound_start: float = 0.0
) -> Path:
    """A video file of the kind that its ending says, with a sound track if sound of `SOUND_RATE` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gif", ".webp"):
        images[0].save(path, save_all=True, append_images=images[1:], duration=1000 // fps, lossless=True)
        return path
    codec, pixel_format = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = *images[0].size, pixel_format
        track = None if sound is None else add_sound_track(container, path.suffix, sound)
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
        if track is not None:
            write_sound(container, track, sound, sound_start)
    return path


LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def add_sound_track(container, suffix: str, sound: np.ndarray):
    codec = {".mp4": "aac", ".mkv": "pcm_f32le", ".webm": "libopus"}[suffix]
    track = container.add_stream(codec, rate=SOUND_RATE)
    track.layout = LAYOUTS[len(sound)]
    return track


def write_sound(container, track, sound: np.ndarray, start: float) -> None:
    layout, size = LAYOUTS[len(sound)], track.codec_context.frame_size or 960
    resampler = av.AudioResampler(format=track.codec_context.format.name, layout=layout, rate=SOUND_RATE)
    for first in range(0, sound.shape[1], size):
        block = np.ascontiguousarray(sound[:, first : first + size])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        frame.pts = round(start * SOUND_RATE) + first
        for part in resampler.resample(frame):
            container.mux(track.encode(part))
    container.mux(track.encode())
