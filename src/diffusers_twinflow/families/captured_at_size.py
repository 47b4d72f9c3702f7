"""The family of any stock or modular flow pipeline, for samples of one size."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from ..models import TWINFLOW_CLASSES
from ..models.timestep_embedders import TIMESTEP_EMBEDDERS
from .base import Family
from .call_capture import DenoiserCall, capture_call
from .call_layout import concatenate, reads_conditions, size_of, split
from .call_velocity import call_velocity
from .decode_capture import DecodedSizeError, DecodeError, Decoder
from .encoding import LatentDistribution, as_pictures, to_unit_range
from .layout_search import LayoutSearch
from .prompts import encode_empty_apart
from .sample_codec import SampleCodec, find_sample_codec
from .sample_place import TOKENS_NDIM, CallLayout
from .size_parts import PartOfSize
from .sound import SoundFormat
from .stock_call import StockCall
from .stock_calls import (
    DATA_MINUS_NOISE,
    FURTHER_OUTPUTS,
    GUIDANCE_OFF,
    GUIDES_ABOVE_ZERO,
    NOT_FOR_EMPTY,
    READS_VALUES,
    STATELESS,
    TAKE_SIGMAS,
)
from .video import strip

if TYPE_CHECKING:
    from typing_extensions import Self

SHORTEST_PROMPT = ""
CANDIDATES = 8
"""How many of the prompts with most characters are encoded to find the one that is longest for the model."""


class CapturedAtSize(Family):
    """A family derived from a stock flow pipeline without a family, for samples of one size.

    Conditions are the arguments that the pipeline's call passes to its denoiser, and samples have the shape that the
    denoiser takes. `for_samples` and `prepare_prompts` come before everything that needs conditions, and `prepare_images`
    before everything that needs images.

    Args:
        pipeline_class: the stock pipeline.
        component_name: its component that denoises.
        denoiser_name: the stock class of that component.

    Attributes:
        size: height and width in pixels.
        layout: how the denoiser is called, known after `prepare_prompts`.
        codec: how samples are decoded, known after `prepare_images`.
        longest_prompt: the longest prompt of a run, if prompts are encoded to different lengths.
        call_options: arguments of the pipeline's call.
        rows: height of the samples in a unit that all sizes of a run share; `None` if the run has one size.
        tie: number of other sizes whose samples have as many numbers.
        of_size: the conditions, or parts of conditions, that depend on the size and not on the prompt.
    """

    saves_lora_by_pipeline = False
    lora_target_modules: list[str] = []
    layout: CallLayout | None = None
    codec: SampleCodec | None = None
    size: tuple[int, int] | None = None
    rows: int | None = None
    tie: int = 0
    of_size: dict[str, PartOfSize] = {}
    num_frames: int | None = None
    call_options: dict[str, Any] = {}
    longest_prompt: str | None = None

    def __init__(self, pipeline_class: type[DiffusionPipeline], component_name: str, denoiser_name: str) -> None:
        self.name = pipeline_class.__name__
        self.pipeline_class = pipeline_class
        self.component_name = component_name
        self.transformer_class = TWINFLOW_CLASSES[denoiser_name]
        self.rule = TIMESTEP_EMBEDDERS[denoiser_name]
        self.timestep_argument = self.rule.argument
        self.takes_one_sample = self.rule.packed
        self.stock_call = call = StockCall(pipeline_class)
        self.max_sequence_length = call.max_sequence_length
        self.capture_options = call.taken(STATELESS)
        off = GUIDANCE_OFF | ({"guidance_scale": 0.0} if denoiser_name in GUIDES_ABOVE_ZERO else {})
        self.guidance_off = call.taken(off)
        self.takes_sigmas = self.name in TAKE_SIGMAS
        self.takes_reference_image, self.image_argument = call.takes_reference_image, call.image_argument
        self.draws_videos, self.is_modular = call.draws_videos, call.is_modular
        self.sound_frame_rate = call.frame_rate if call.draws_sound else None
        self.task, self.output_name = call.task, call.output_name
        is_negated = self.rule.at_noise < self.rule.at_data or denoiser_name in DATA_MINUS_NOISE
        self.prediction_sign = -1.0 if is_negated else 1.0

    def lora_targets(self, model: ModelMixin) -> list[str]:
        """Every linear layer of the model's blocks."""
        return [
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and any(part.isdigit() for part in name.split(".")[:2])
            and not name.startswith("time_conditioning.")
        ]

    # What the pipeline is called with, and what it generates.

    def size_options(self, resolution: int) -> dict[str, Any]:
        return self.stock_call.size_options(resolution, resolution)

    def frame_rate(self, pipeline: DiffusionPipeline) -> float:
        """Return the default of the pipeline's call, or 24 if it has none."""
        return self.stock_call.frame_rate

    def check_trains(self) -> None:
        """
        Raises:
            TwinFlowConfigError: if the pipeline's call needs more than prompts and an image, or cannot be captured.
        """
        self.stock_call.check_trains()

    def draw(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[Image.Image]:
        return [strip(frames) for frames in self.draw_frames(pipeline, prompts, images_per_prompt, **call_options)]

    def draw_frames(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[list[Image.Image]]:
        """`num_frames` of a video is 1 if the call does not say otherwise."""
        return self.stock_call.draw_frames(pipeline, prompts, images_per_prompt, **call_options)

    def for_samples(
        self,
        pipeline: DiffusionPipeline,
        *,
        resolution: int,
        num_frames: int | None = None,
        max_sequence_length: int | None = None,
    ) -> "Self":
        sized = copy(self)
        sized.size, sized.num_frames = (resolution, resolution), num_frames
        frames = {"num_frames": num_frames or 1} if self.draws_videos else {}
        length = (
            {"max_sequence_length": max_sequence_length} if max_sequence_length and self.max_sequence_length else {}
        )
        without_sound = self.stock_call.without_sound(pipeline)
        options = self.capture_options | self.guidance_off | self.size_options(resolution) | without_sound
        sized.call_options = options | frames | length
        self.check_trains()
        return sized

    def _capture(
        self, pipeline: DiffusionPipeline, prompts: list[str], seed: int = 0, image: Image.Image | None = None
    ) -> DenoiserCall:
        conditions = self.stock_call.conditions(prompts, image, self.size or (0, 0))
        return capture_call(pipeline, self.component_name, seed, **conditions, **self.call_options)

    def find_layout(
        self,
        pipeline: DiffusionPipeline,
        capture: Callable[[int, int], DenoiserCall],
        padded: tuple[DenoiserCall, DenoiserCall] | None = None,
        short: DenoiserCall | None = None,
    ) -> CallLayout:
        """Find how a pipeline calls its denoiser, see `LayoutSearch.find`."""
        search = LayoutSearch(
            self.name,
            self.component_name,
            self.transformer_class,
            self.rule,
            self.transformer_class._timestep_range(self.denoiser(pipeline)),
            type(pipeline.scheduler).__name__,
        )
        return search.find(capture, padded, short)

    # Conditions and the velocity.

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        if self.layout is None:
            raise _not_prepared(self.name)
        if self.takes_reference_image and reference_images is None:
            raise TwinFlowConfigError(
                f"{self.name} needs an image, so encode_prompts needs reference_images. Pass one per prompt."
            )
        if not self.layout.takes_several:
            images = [None] * len(prompts) if reference_images is None else as_pictures(reference_images)
            return concatenate(
                [
                    self.split_call(self._capture(pipeline, [prompt], image=image), 1)
                    for prompt, image in zip(prompts, images)
                ]
            )
        if not self.stock_call.taken(NOT_FOR_EMPTY):
            return self._encode(pipeline, prompts)
        names: list[str] = []

        def encode(some: list[str]) -> tuple[torch.Tensor, ...]:
            condition = self._encode(pipeline, some)
            names[:] = condition
            return tuple(condition.values())

        return dict(zip(names, encode_empty_apart(prompts, encode, encode)))

    def _encode(self, pipeline: DiffusionPipeline, prompts: list[str]) -> Condition:
        """The condition of prompts that the pipeline takes in one call."""
        asked = prompts if self.longest_prompt is None else [*prompts, self.longest_prompt, SHORTEST_PROMPT]
        return self.split_call(self._capture(pipeline, asked), len(asked), len(prompts))

    def split_call(self, call: DenoiserCall, count: int, kept: int | None = None) -> Condition:
        """The tensors per sample of a call for `count` samples, or of the first `kept` of them.

        Raises:
            TwinFlowConfigError: if the call is not laid out as the one that `find_layout` saw.
        """
        if self.layout is None:
            raise _not_prepared(self.name)
        condition: Condition = {}
        for name, layout in self.layout.arguments.items():
            condition |= split(layout, call.arguments[name], count, name, kept)
        if self.layout.controlnet is not None and call.controlnet is not None:
            condition |= self.layout.controlnet.split(call.controlnet, count, kept)
        place = self.layout.sample
        if place.dim is not None or not condition:
            around = call.arguments[place.argument]
            condition[place.argument] = place.without_sample(torch.stack(list(around)) if place.kind else around)[
                :kept
            ]
        return condition

    def prepare_prompts(self, pipeline: DiffusionPipeline, prompts: list[str]) -> None:
        """Find how the pipeline calls its denoiser, and the longest prompt if it encodes prompts to different lengths.

        The longest and the shortest prompt are then encoded beside every batch, so that the pipeline pads all prompts to
        one length, and passes a mask if it has one.
        """
        self.longest_prompt = None
        self._find_layout(pipeline, "")
        by_length = sorted(prompts, key=len, reverse=True)[:CANDIDATES]
        empty = self._encoded_size(pipeline, "")
        if not by_length or self._encoded_size(pipeline, by_length[0]) == empty:
            return
        self.longest_prompt = max(by_length, key=lambda prompt: self._encoded_size(pipeline, prompt))
        self._find_layout(pipeline, self.longest_prompt)

    def _find_layout(self, pipeline: DiffusionPipeline, prompt: str) -> None:
        def capture(count: int, seed: int) -> DenoiserCall:
            if count > 1 and self.takes_reference_image:
                raise TwinFlowConfigError("each prompt has a different image")
            return self._capture(pipeline, [prompt] * count, seed)

        padded, short = None, None
        if self.longest_prompt is not None:
            short = self._capture(pipeline, [SHORTEST_PROMPT])
        if self.longest_prompt is not None and self.layout is not None and self.layout.takes_several:
            both = [prompt, SHORTEST_PROMPT]
            padded = self._capture(pipeline, both), self._capture(pipeline, both * 2)
        self.layout = self.find_layout(pipeline, capture, padded, short)

    def _encoded_size(self, pipeline: DiffusionPipeline, prompt: str) -> int:
        """How many numbers the pipeline passes to its denoiser for a prompt."""
        return size_of(self._capture(pipeline, [prompt]).arguments)

    @property
    def reads_conditions(self) -> bool:  # type: ignore[override]  # it depends on the layout
        """Whether the model reads values, or prompts of different lengths give it tensors that a batch must share."""
        if self.transformer_class.stock_class().__name__ in READS_VALUES or self.takes_one_sample:
            return True
        if self.layout is None:
            return False
        controlnet = self.layout.controlnet
        layouts = [*self.layout.arguments.values(), *(() if controlnet is None else controlnet.arguments.values())]
        return any(map(reads_conditions, layouts))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample. Each of the sizes of a run has another shape.

        A sample of several parts, such as a video with sound, is the row of all their numbers. Sizes with as many numbers
        have further dimensions of size 1.
        """
        if self.layout is None:
            raise _not_prepared(self.name)
        return (*[1] * self.tie, *self.layout.sample_shape) if self.layout.beside else self._shape_at_size

    @property
    def _shape_at_size(self) -> tuple[int, ...]:
        """The shape of one sample, or of its first part. With several sizes, tokens are in rows."""
        if self.layout is None:
            raise _not_prepared(self.name)
        shape = self.layout.sample.shape
        if self.rows is None or len(shape) != TOKENS_NDIM - 1 or shape[0] % self.rows:
            return shape
        return self.rows, shape[0] // self.rows, shape[1]

    def condition_identity(self) -> dict[str, Any]:
        host = {"on_host": True} if self.reads_conditions else {}
        return {"call": self.call_options, "longest_prompt": self.longest_prompt} | host

    # Latents.

    def prepare_images(self, pipeline: DiffusionPipeline) -> None:
        """Find how the pipeline decodes samples, and check that encoding is the inverse of it.

        Raises:
            TwinFlowConfigError: if it is not, with what was seen.
        """
        if self.layout is None or self.size is None:
            raise _not_prepared(self.name)
        call = self.call_options | self.stock_call.conditions([""], None, self.size)
        frames = [self.num_frames] if self.num_frames else []
        shape = (1, 3, *frames, *self.size)
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.find_codec(self.decoder(pipeline, call), pixels)

    def decoder(self, pipeline: DiffusionPipeline, call: dict[str, Any]) -> Decoder:
        """Return the pipeline's call from its last step on.

        Args:
            call: arguments of the pipeline's call for one sample.
        """
        if self.layout is None:
            raise _not_prepared(self.name)
        further = FURTHER_OUTPUTS.get(self.transformer_class.stock_class().__name__, 0)
        return Decoder(pipeline, self.component_name, self.layout.places, call, further)

    def find_codec(self, decoder: Decoder, pixels: torch.Tensor) -> None:
        """Find how samples are decoded, and check it with an image and with a sound, if there is sound.

        Args:
            decoder: the pipeline's call for one sample.
            pixels: one image or video in [-1, 1], of the size of the samples.

        Raises:
            TwinFlowConfigError: if encoding is not the inverse of decoding, with what was seen.
        """
        try:
            self.codec = find_sample_codec(decoder, pixels)
        except DecodeError as error:
            remedy = (
                "Its call chooses or rounds the size: set `resolution` or `aspect_ratio_buckets` to sizes that it does "
                "not change."
                if isinstance(error, DecodedSizeError)
                else "Train it with prompts only: set `twinflow_enabled`, `twinflow_image_free` and `prompts_file`."
            )
            raise TwinFlowConfigError(f"{self.name} cannot be trained on images: {error}. {remedy}") from error

    @property
    def sound_format(self) -> SoundFormat | None:
        return None if self.codec is None else self.codec.sound_format

    def encode_distribution(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor, sound: torch.Tensor | None = None
    ) -> LatentDistribution:
        """
        Raises:
            TwinFlowConfigError: if the pixels are of another size than `for_samples` was given.
        """
        self._check_size(pixels)
        if self.codec is None:
            raise TwinFlowConfigError(
                f"The family {self.name} does not know yet how to encode images: call `prepare_images` on it after "
                "`prepare_prompts`."
            )
        mean, std = self.codec.encode(pixels, sound)
        shape = (len(pixels), *self.sample_shape)
        return LatentDistribution(mean.reshape(shape), None if std is None else std.reshape(shape))

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to pixels in [0, 1]. Sound is not decoded."""
        if self.layout is None or self.codec is None:
            raise _not_prepared(self.name)
        samples = self.layout.split_sample(latents)[0] if self.layout.beside else latents
        return to_unit_range(self.codec.decode_pixels(samples))

    def blank_latents(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
        self._check_size(pixels)
        return pixels.new_zeros(len(pixels), *self.sample_shape)

    def _check_size(self, pixels: torch.Tensor) -> None:
        if self.size != tuple(pixels.shape[-2:]):
            raise unknown_size(self.name, pixels)

    def number_weights(
        self, shape: Sequence[int], device: torch.device | str = "cpu", part_weights: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        weights = None if self.layout is None else self.layout.number_weights(device, part_weights)
        return None if weights is None else weights.reshape(-1, *shape)

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        if self.layout is None:
            raise _not_prepared(self.name)
        at_noise, at_data = self.layout.time_range
        return at_data + t * (at_noise - at_data)

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        if self.layout is None:
            raise _not_prepared(self.name)
        return call_velocity(model, self, self.layout, self.of_size, self.prediction_sign)


def unknown_size(name: str, pixels: torch.Tensor) -> TwinFlowConfigError:
    """The error for pixels of a size that a run does not have."""
    height, width = pixels.shape[-2:]
    return TwinFlowConfigError(
        f"The family {name} is not prepared for {height} x {width} pixels: call `prepare_sizes` on it with all sizes."
    )


def _not_prepared(name: str) -> TwinFlowConfigError:
    return TwinFlowConfigError(
        f"The family {name} does not know yet how to call its model: call `for_samples` on it, and then `prepare_prompts`."
    )
