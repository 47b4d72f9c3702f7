"""The base class of families. A family adapts one kind of base model to the rest of the package."""

from typing import TYPE_CHECKING, Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from .denoising import Denoising
from .encoding import Encoding

if TYPE_CHECKING:
    from typing_extensions import Self


class Family(Denoising, Encoding):
    """Adapts one kind of base model, such as FLUX.1, to training and sampling.

    `Denoising` says how the model is called, `Encoding` how prompts and images are encoded, and this class how the stock
    pipeline generates images. A subclass sets the attributes and implements `encode_prompts` and `velocity`. It overrides
    other methods if its model differs. See docs/adding-a-family.md.

    Attributes:
        name: the name in configs and model cards.
        guidance_off: arguments that turn guidance off in the stock pipeline, so that it calls the model once per step.
            A model with embedded guidance gets the same value here and in `velocity`. The value is 1 for such a model,
            because it then predicts the velocity of the data. `twinflow_enhanced_ratio` builds guidance in.
        takes_sigmas: whether the stock call was tested to sample on the grid of its `sigmas`, if it takes them.
        saves_lora_by_pipeline: whether the stock pipeline class has a `save_lora_weights` that is used.
        draws_videos: whether the model generates videos and can be trained on them.
        task: the Hub's name of the pipeline's task.
        usual_base: Hub id of the default base for published transformers that name none; `None` if there is none.
        output_name: attribute of the stock call's output with the images or videos.
        is_modular: whether diffusers has the pipeline as modular blocks.
    """

    guidance_off: dict[str, float] = {"guidance_scale": 0.0}
    takes_sigmas: bool = True
    saves_lora_by_pipeline: bool = True
    draws_videos: bool = False
    task: str = "text-to-image"
    usual_base: str | None = None
    output_name: str = "images"
    is_modular: bool = False

    def for_samples(
        self,
        pipeline: DiffusionPipeline,
        *,
        resolution: int,
        num_frames: int | None = None,
        max_sequence_length: int | None = None,
    ) -> "Self":
        """Return the family for the samples of a run. Most families do not depend on them.

        Args:
            pipeline: the base, with its text encoders.
            resolution: size of a side in pixels.
            num_frames: length of clips; `None` for images.
            max_sequence_length: tokens of every encoded prompt; `None` for the default.
        """
        return self

    def check_trains(self) -> None:
        """Raise a `TwinFlowConfigError` if no run can train the pipeline, before it is loaded."""

    def check_num_frames(self, pipeline: DiffusionPipeline, num_frames: int) -> None:
        """Raise a `TwinFlowConfigError` if videos with this number of frames cannot be encoded."""

    def frame_rate(self, pipeline: DiffusionPipeline) -> float:
        """Return the frame rate of the base's videos, in frames per second."""
        raise NotImplementedError

    def size_options(self, resolution: int) -> dict[str, Any]:
        """Return the arguments of the stock call for images of `resolution` x `resolution` pixels."""
        return {"height": resolution, "width": resolution}

    def draw(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[Image.Image]:
        """Generate `images_per_prompt` images per prompt, in the order of the prompts. A video gives a strip of frames.

        Args:
            pipeline: the stock pipeline.
            prompts: the prompts.
            images_per_prompt: number of images per prompt.
            call_options: further arguments of the stock call.
        """
        return call_pipeline(pipeline, prompt=prompts, num_images_per_prompt=images_per_prompt, **call_options).images

    def draw_frames(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[list[Image.Image]]:
        """Generate as `draw` does, and return all frames of each video. An image is one frame."""
        return [[image] for image in self.draw(pipeline, prompts, images_per_prompt, **call_options)]


def call_pipeline(pipeline: Any, **options: Any) -> Any:
    """Call a stock pipeline. For type checkers, because diffusers' base class declares no `__call__`."""
    return pipeline(**options)
