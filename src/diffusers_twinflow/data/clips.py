"""Clips of videos: video files, animated pictures, and lists of encoded frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from PIL import Image, ImageSequence, UnidentifiedImageError

from .images import decode, measure, source_of

ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats that Pillow reads frame by frame; PyAV reads the others."""
CONTAINERS = "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,mpeg,mpegvideo,mpegts,flv,ogg,asf"
"""FFmpeg's names of the formats that are read. A playlist, for example, would open other files and addresses."""
Frames = Iterator[tuple[float, Image.Image]]


@dataclass(frozen=True)
class Clip:
    """What of a video is trained on: a stretch from its beginning.

    Attributes:
        num_frames: frames of the stretch.
        fps: how many frames of a second are taken, by the times in the file; `None` takes every frame.
    """

    num_frames: int
    fps: float | None = None

    def decode(self, value: dict | list) -> list[Image.Image]:
        """The frames, all of one size, turned as the file says.

        Args:
            value: `{"bytes", "path"}` of a file, or a list of those of frames.

        Raises:
            ValueError: where the video is too short, or its frames are of several sizes.
            Exception: whatever the decoder raises on a file that is broken.
        """
        timed = timed_frames(value)
        chosen = at_rate(timed, self.fps) if self.fps else (frame for _, frame in timed)
        frames = list(islice(chosen, self.num_frames))
        if len(frames) < self.num_frames:
            rate = f" at {self.fps:g} a second" if self.fps else ""
            raise ValueError(f"{len(frames)} frames{rate}, and num_frames={self.num_frames}")
        sizes = {frame.size for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"frames of several sizes: {sorted(sizes)}")
        return frames


def read(value: dict | list, clip: Clip | None) -> Image.Image | list[Image.Image]:
    """The image, or the frames where there is a clip."""
    return clip.decode(value) if clip else decode(_one_file(value))


def size_of(value: dict | list, clip: Clip | None) -> tuple[int, int]:
    """Width and height of an image or of a clip's frames, everything that is trained on having been read."""
    return clip.decode(value)[0].size if clip else measure(_one_file(value))


def _one_file(value: dict | list) -> dict:
    if isinstance(value, list):
        raise ValueError("a list of frames is no image: set `num_frames` to train on clips")
    return value


def timed_frames(value: dict | list) -> Frames:
    """Every frame of a video and when it is shown, in seconds; of a list the frame's number."""
    if isinstance(value, list):
        for number, frame in enumerate(value):
            yield float(number), decode(frame)
        return
    try:
        picture = Image.open(source_of(value), formats=ANIMATED)
    except UnidentifiedImageError:
        yield from _video(source_of(value))
    else:
        yield from _animation(picture)


def _animation(picture: Image.Image) -> Frames:
    with picture:
        time = 0.0
        for frame in ImageSequence.Iterator(picture):
            yield time, frame.copy()
            time += frame.info.get("duration", 0) / 1000


def _video(source: BinaryIO | str) -> Frames:
    import av

    with (
        open(source, "rb") if isinstance(source, str) else source as content,
        av.open(content, options={"format_whitelist": CONTAINERS}) as container,
    ):
        for frame in container.decode(video=0):
            image = frame.to_image()
            yield frame.time, image.rotate(frame.rotation, expand=True) if frame.rotation else image


def at_rate(timed: Iterable[tuple[float, Image.Image]], fps: float) -> Iterator[Image.Image]:
    """The frame nearest in time to each `1 / fps` of a second, from the first frame's on."""
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
