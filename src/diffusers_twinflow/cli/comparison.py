"""Generate images with a TwinFlow LoRA and with its base, from the same noise and one copy of the weights."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..families.video import strip
from ..hub.sample_images import count_of_steps, draw_frames
from ..pipelines import TwinFlowPipeline
from ..pipelines.bare_base import bare_base, base_options
from .command_pipeline import refusals


@dataclass(frozen=True)
class Drawn:
    """An image or the frames of a video, and the seconds of the whole call: text encoders, steps and decoder."""

    frames: list[Image.Image]
    seconds: float

    @property
    def image(self) -> Image.Image:
        """The image. For a video, some frames side by side."""
        return strip(self.frames)


class Comparison:
    """Generates images for a prompt with a TwinFlow LoRA at several step counts, and with its base at many steps.

    Attributes:
        labels: labels of the images, the base first, such as "base, 50 steps" and "2 steps".

    Args:
        pipeline: pipeline with a TwinFlow LoRA and no other LoRA.
        base_guidance: guidance scale of the base. Defaults to the default of the stock pipeline.
        call_options: arguments of every call, such as `height`.
    """

    def __init__(
        self,
        pipeline: TwinFlowPipeline,
        steps: Sequence[int],
        base_steps: int,
        *,
        base_guidance: float | None = None,
        **call_options: Any,
    ) -> None:
        self.pipeline, self.base_steps, self.call_options = pipeline, base_steps, call_options
        self.steps = dict.fromkeys(steps)
        self.base_options = base_options(pipeline, base_guidance)
        self.base_label = f"base, {count_of_steps(base_steps)}"
        self.labels = [self.base_label, *map(count_of_steps, self.steps)]

    def draw(self, prompt: str, seed: int) -> Iterator[tuple[str, Drawn]]:
        """Yield each label and image as soon as it is generated. The base takes longest and is last."""
        for steps in self.steps:
            yield count_of_steps(steps), timed_draw(self.pipeline, prompt, steps, seed, **self.call_options)
        with bare_base(self.pipeline) as base:
            options = self.call_options | self.base_options
            drawn = timed_draw(base, prompt, self.base_steps, seed, **options)
        yield self.base_label, drawn

    def draw_all(self, prompt: str, seed: int) -> dict[str, Drawn]:
        """Generate all images and return them by label."""
        return dict(self.draw(prompt, seed))


def timed_draw(pipeline: DiffusionPipeline, prompt: str, steps: int, seed: int, **call_options: Any) -> Drawn:
    started = time.perf_counter()
    with refusals():
        (frames,) = draw_frames(pipeline, [prompt], steps, seed, **call_options)
    return Drawn(frames, time.perf_counter() - started)
