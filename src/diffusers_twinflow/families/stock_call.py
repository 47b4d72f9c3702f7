"""What the call of a stock pipeline takes and generates, from its signature and what is known of it."""

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..configuration import TwinFlowConfigError
from .base import call_pipeline
from .decode_capture import AUTOENCODERS
from .modular_blocks import BlocksPipeline
from .stock_calls import MASKS, NOT_FOR_EMPTY, ONE_PROMPT, OUTPUT_NAMES, REFUSED, TAKE_IMAGES

USUAL_FRAME_RATE = 24.0
SAMPLE_AUDIO = "sample_audio"
"""Argument of calls that generate sound only if it is wanted."""


class StockCall:
    """The call of a stock or modular pipeline class.

    Args:
        pipeline_class: the class.

    Attributes:
        parameters: the parameters of the call by name.
        is_modular: whether diffusers has the pipeline as modular blocks.
        takes_reference_image: whether the call edits an image.
        image_argument: name of the argument for that image.
        draws_videos: whether the call generates videos.
        draws_sound: whether its videos have sound.
    """

    def __init__(self, pipeline_class: type[DiffusionPipeline]) -> None:
        self.name = pipeline_class.__name__
        self.parameters = parameters = inspect.signature(pipeline_class.__call__).parameters
        self.is_modular = issubclass(pipeline_class, BlocksPipeline)
        image = parameters.get("image")
        needs_image = image is not None and image.default is image.empty
        self.takes_reference_image = needs_image or self.name in TAKE_IMAGES
        self.image_argument = TAKE_IMAGES.get(self.name, "image")
        self.draws_videos = "num_frames" in parameters
        self.draws_sound = self.draws_videos and AUTOENCODERS[1] in pipeline_class._get_signature_types()

    @property
    def task(self) -> str:
        """The Hub's name of what the call does."""
        start, end = "image" if self.takes_reference_image else "text", "video" if self.draws_videos else "image"
        return f"{start}-to-{end}"

    @property
    def output_name(self) -> str:
        """Attribute of the output with the images or videos."""
        videos = "videos" if self.is_modular else "frames"
        return OUTPUT_NAMES.get(self.name, videos if self.draws_videos else "images")

    @property
    def max_sequence_length(self) -> int:
        """The default length of an encoded prompt, in tokens; 0 if it cannot be chosen."""
        length = self.parameters.get("max_sequence_length")
        return length.default if length is not None and isinstance(length.default, int) else 0

    @property
    def frame_rate(self) -> float:
        """The default frame rate, or 24 if the call has none."""
        defaults = (self.parameters[name].default for name in ("frame_rate", "fps") if name in self.parameters)
        return next((float(value) for value in defaults if isinstance(value, (int, float))), USUAL_FRAME_RATE)

    def check_trains(self) -> None:
        """Check that the call needs only prompts and an image, and can be captured.

        Raises:
            TwinFlowConfigError: if not.
        """
        if self.name in REFUSED:
            raise TwinFlowConfigError(
                f"{self.name} cannot be trained: {REFUSED[self.name]}. Choose a base that generates images or videos from a "
                "prompt."
            )
        masks = () if self.is_modular else MASKS  # blocks with a mask are left out without one
        mask = next((name for name in masks if name in self.parameters), None)
        if mask is not None:
            raise TwinFlowConfigError(
                f"{self.name} cannot be trained, because it fills the part of an image that its `{mask}` shows, and "
                "samples have no masks. Choose a base that edits whole images or generates from a prompt."
            )
        needed = [
            name
            for name, parameter in list(self.parameters.items())[1:]
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        sizes = () if self.takes_reference_image else ("height", "width")  # some have the size of their image
        missing = [name for name in ("prompt", *sizes) if name not in self.parameters]
        others = [name for name in needed if name not in ("prompt", "image")]
        if missing or others:
            what = f"takes no `{missing[0]}`" if missing else f"needs `{others[0]}`"
            raise TwinFlowConfigError(
                f"{self.name} cannot be trained with prompts alone: its call {what}. Choose a base that generates "
                "images or videos from a prompt."
            )

    # The arguments of a call.

    def taken(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that the call has."""
        return {name: value for name, value in options.items() if name in self.parameters}

    def size_options(self, height: int, width: int) -> dict[str, Any]:
        """Return the arguments for a height and a width."""
        options = {"height": height, "width": width, "use_resolution_binning": False, "max_area": height * width}
        return self.taken(options)

    def without_sound(self, pipeline: DiffusionPipeline) -> dict[str, Any]:
        """Return the argument of a call without sound, if the pipeline has no autoencoder for it."""
        return {} if getattr(pipeline, AUTOENCODERS[1], None) is not None else self.taken({SAMPLE_AUDIO: False})

    def conditions(self, prompts: list[str], image: Image.Image | None, size: tuple[int, int]) -> dict[str, Any]:
        """Return the arguments that condition the call.

        Args:
            prompts: the prompts.
            image: the image to edit, if the call takes one. Defaults to a blank one.
            size: height and width of a blank one.
        """
        call: dict[str, Any] = {"prompt": _as_argument(prompts)}
        if self.takes_reference_image:
            call[self.image_argument] = image or Image.new("RGB", size[::-1], "gray")
        return call if any(prompts) else call | self.taken(NOT_FOR_EMPTY)

    def draw_frames(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[list[Image.Image]]:
        """Generate images or videos, see `Family.draw_frames`. `num_frames` of a video is 1 by default."""
        options = self.without_sound(pipeline) | ({"num_frames": 1} if self.draws_videos else {})
        options |= {"output_type": "pil"} | call_options
        names = ("num_images_per_prompt", "num_videos_per_prompt")
        per_prompt = self.taken(dict.fromkeys(names, images_per_prompt))
        takes_one = self.takes_reference_image or self.name in ONE_PROMPT
        calls = [[prompt] for prompt in prompts] if takes_one else [prompts]
        drawn = [
            each
            for some in calls
            for each in call_pipeline(pipeline, prompt=_as_argument(some), **per_prompt, **options)[0]
        ]
        return drawn if self.draws_videos else [[image] for image in drawn]


def _as_argument(prompts: list[str]) -> str | list[str]:
    """Prompts as the call takes them: some pipelines take one prompt, as a text."""
    return prompts[0] if len(prompts) == 1 else prompts
