"""Read clips from video files, animated images and lists of encoded frames."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, ImageSequence, UnidentifiedImageError

from .images import decode, measure, source_of

if TYPE_CHECKING:
    from av.container import InputContainer

ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats whose frames Pillow reads. PyAV reads the others."""
CONTAINERS = "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,mpeg,mpegvideo,mpegts,flv,ogg,asf"
"""FFmpeg's names of the allowed formats. Others are unsafe: a playlist, for example, opens other files and addresses."""
Frames = Iterator[tuple[float, Image.Image]]


@dataclass(frozen=True)
class Clip:
    """The part of a video to train on: its first frames.

    Attributes:
        num_frames: number of frames.
        fps: frames to read per second, based on the times in the file. `None` reads every frame.
        sound_fps: frames per second of a model that generates videos with sound; `None` if sound is not used. Files are
            then read at this rate, so that frames and sound belong together.
    """

    num_frames: int
    fps: float | None = None
    sound_fps: float | None = None

    def decode(self, value: dict | list) -> list[Image.Image]:
        """Decode the frames. All have the same size and the rotation that the file specifies.

        Args:
            value: `{"bytes", "path"}` of a video file, or a list of such dictionaries, one per frame.

        Raises:
            ValueError: if the video is too short, or its frames have different sizes.
            Exception: if the file is damaged, any error of the decoder.
        """
        timed = timed_frames(value)
        fps = self.fps or (None if isinstance(value, list) else self.sound_fps)
        chosen = at_rate(timed, fps) if fps else (frame for _, frame in timed)
        frames = list(islice(chosen, self.num_frames))
        if len(frames) < self.num_frames:
            rate = f" at {fps:g} a second" if fps else ""
            raise ValueError(f"{len(frames)} frames{rate}, and num_frames={self.num_frames}")
        sizes = {frame.size for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"frames of several sizes: {sorted(sizes)}")
        return frames


def read(value: dict | list, clip: Clip | None) -> Image.Image | list[Image.Image]:
    """Decode an image, or the frames of a video if `clip` is given."""
    return clip.decode(value) if clip else decode(_one_file(value))


def size_of(value: dict | list, clip: Clip | None) -> tuple[int, int]:
    """Return the width and height of an image or of a video's frames. This decodes all frames that are trained on."""
    return clip.decode(value)[0].size if clip else measure(_one_file(value))


def _one_file(value: dict | list) -> dict:
    if isinstance(value, list):
        raise ValueError("a list of frames is not an image: set `num_frames` to train on videos")
    return value


def timed_frames(value: dict | list) -> Frames:
    """Yield every frame of a video with its time in seconds. For a list, the time is the number of the frame."""
    if isinstance(value, list):
        for number, frame in enumerate(value):
            yield float(number), decode(frame)
        return
    picture = animation_in(value)
    yield from _video(source_of(value)) if picture is None else _animation(picture)


def animation_in(value: dict) -> Image.Image | None:
    """Open an image with several frames; `None` if the file is a video."""
    try:
        return Image.open(source_of(value), formats=ANIMATED)
    except UnidentifiedImageError:
        return None


def _animation(picture: Image.Image) -> Frames:
    with picture:
        time = 0.0
        for frame in ImageSequence.Iterator(picture):
            yield time, frame.copy()
            time += frame.info.get("duration", 0) / 1000


def _video(source: BinaryIO | str) -> Frames:
    with open_container(source) as container:
        for frame in container.decode(video=0):
            image = frame.to_image()
            yield frame.time, image.rotate(frame.rotation, expand=True) if frame.rotation else image


@contextmanager
def open_container(source: BinaryIO | str) -> "Iterator[InputContainer]":
    """Open a video file with PyAV inside the block."""
    import av

    with (
        open(source, "rb") if isinstance(source, str) else source as content,
        av.open(content, "r", options={"format_whitelist": CONTAINERS}) as container,
    ):
        yield container


def at_rate(timed: Iterable[tuple[float, Image.Image]], fps: float) -> Iterator[Image.Image]:
    """Yield `fps` frames per second, each the nearest in time, starting with the first frame."""
    tick, start, gap = 0, 0.0, 0.0
    previous: tuple[float, Image.Image] | None = None
    for time, frame in timed:
        if previous is None:
            start = time
        else:
            gap = time - previous[0]
            while tick / fps < previous[0] - start + gap / 2:
                yield previous[1]
                tick += 1
        previous = time, frame
    while previous is not None and tick / fps <= previous[0] - start + gap / 2:
        yield previous[1]
        tick += 1
