"""A family for any stock or modular flow pipeline. Its conditions are the arguments that the pipeline passes to its denoiser."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from math import gcd
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..conditions import ON_HOST, Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from ..models import TWINFLOW_CLASSES
from ..models.timestep_embedders import TIMESTEP_EMBEDDERS
from .base import Family, call_pipeline
from .call_capture import DenoiserCall, capture_call
from .call_layout import concatenate, join, reads_conditions, size_of, split
from .decode_capture import AUTOENCODERS, DecodedSizeError, DecodeError, Decoder
from .encoding import LatentDistribution, as_pictures, to_unit_range
from .layout_search import LayoutSearch
from .modular_blocks import BlocksPipeline, blocks_pipeline_class
from .prompts import encode_empty_apart
from .sample_codec import SampleCodec, find_sample_codec
from .sample_place import TOKENS_NDIM, CallLayout
from .size_parts import PartOfSize, part_of_size
from .sound import SoundFormat
from .stock_calls import (
    DATA_MINUS_NOISE,
    FURTHER_OUTPUTS,
    GUIDANCE_OFF,
    GUIDES_ABOVE_ZERO,
    MASKS,
    NOT_FOR_EMPTY,
    ONE_PROMPT,
    OUTPUT_NAMES,
    READS_VALUES,
    REFUSED,
    STATELESS,
    TAKE_IMAGES,
    TAKE_SIGMAS,
    denoiser_of,
)
from .video import strip

if TYPE_CHECKING:
    from typing_extensions import Self

USUAL_FRAME_RATE = 24.0
SAMPLE_AUDIO = "sample_audio"
"""Argument of calls that generate sound only if it is wanted."""
SHORTEST_PROMPT = ""
CANDIDATES = 8
"""How many of the prompts with most characters are encoded to find the one that is longest for the model."""


def captured_family(class_name: str) -> "CapturedFamily | None":
    """The derived family of a stock or modular class of diffusers; `None` if the table has no denoiser of it."""
    pipeline_class = blocks_pipeline_class(class_name) or getattr(diffusers, class_name, None)
    if not (isinstance(pipeline_class, type) and issubclass(pipeline_class, DiffusionPipeline)):
        return None
    found = denoiser_of(pipeline_class)
    return None if found is None else CapturedFamily(pipeline_class, *found)


class CapturedFamily(Family):
    """A family derived from a stock flow pipeline that has no family file.

    Conditions are the arguments that the pipeline's call passes to its denoiser, and samples have the shape that the
    denoiser takes. `for_samples` and `prepare_prompts` come before everything that needs conditions, and `prepare_images`
    before everything that needs images. A run with several sizes calls `prepare_sizes` before `prepare_images`. It has a
    family for each size. The conditions of that family depend on the prompt and on the size.

    Args:
        pipeline_class: the stock pipeline.
        component_name: its component that denoises.
        denoiser_name: the stock class of that component.
    """

    saves_lora_by_pipeline = False
    lora_target_modules: list[str] = []
    layout: CallLayout | None = None
    codec: SampleCodec | None = None
    size: tuple[int, int] | None = None
    rows: int | None = None
    tie: int = 0
    at_sizes: "Mapping[tuple[int, int], CapturedFamily]" = {}
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
        parameters = inspect.signature(pipeline_class.__call__).parameters
        self.parameters = parameters
        length = parameters.get("max_sequence_length")
        self.max_sequence_length = length.default if length is not None and isinstance(length.default, int) else 0
        self.capture_options = {name: value for name, value in STATELESS.items() if name in parameters}
        off = GUIDANCE_OFF | ({"guidance_scale": 0.0} if denoiser_name in GUIDES_ABOVE_ZERO else {})
        self.guidance_off = {name: value for name, value in off.items() if name in parameters}
        self.takes_sigmas = self.name in TAKE_SIGMAS
        image = parameters.get("image")
        needs_image = image is not None and image.default is image.empty
        self.takes_reference_image = needs_image or self.name in TAKE_IMAGES
        self.image_argument = TAKE_IMAGES.get(self.name, "image")
        self.draws_videos = "num_frames" in parameters
        draws_sound = self.draws_videos and AUTOENCODERS[1] in pipeline_class._get_signature_types()
        self.sound_frame_rate = self._usual_frame_rate if draws_sound else None
        start, end = "image" if self.takes_reference_image else "text", "video" if self.draws_videos else "image"
        self.task = f"{start}-to-{end}"
        self.is_modular = issubclass(pipeline_class, BlocksPipeline)
        videos = "videos" if self.is_modular else "frames"
        self.output_name = OUTPUT_NAMES.get(self.name, videos if self.draws_videos else "images")
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

    # What the pipeline is called with.

    def size_options(self, resolution: int) -> dict[str, Any]:
        return self._options_of((resolution, resolution))

    def _options_of(self, size: tuple[int, int]) -> dict[str, Any]:
        """The arguments of the stock call for a height and a width."""
        height, width = size
        options = {"height": height, "width": width, "use_resolution_binning": False, "max_area": height * width}
        return {name: value for name, value in options.items() if name in self.parameters}

    def frame_rate(self, pipeline: DiffusionPipeline) -> float:
        """Return the default of the pipeline's call, or 24 if it has none."""
        return self._usual_frame_rate

    @property
    def _usual_frame_rate(self) -> float:
        defaults = (self.parameters[name].default for name in ("frame_rate", "fps") if name in self.parameters)
        return next((float(value) for value in defaults if isinstance(value, (int, float))), USUAL_FRAME_RATE)

    def _without_sound(self, pipeline: DiffusionPipeline) -> dict[str, Any]:
        """Return the argument of a call without sound, if the pipeline has no autoencoder for it."""
        has_none = SAMPLE_AUDIO in self.parameters and getattr(pipeline, AUTOENCODERS[1], None) is None
        return {SAMPLE_AUDIO: False} if has_none else {}

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
        without_sound = self._without_sound(pipeline)
        options = self.capture_options | self.guidance_off | self.size_options(resolution) | without_sound
        sized.call_options = options | frames | length
        self.check_trains()
        return sized

    def check_trains(self) -> None:
        """
        Raises:
            TwinFlowConfigError: if the pipeline's call needs more than prompts and an image, or cannot be captured.
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

    def _capture(
        self, pipeline: DiffusionPipeline, prompts: list[str], seed: int = 0, image: Image.Image | None = None
    ) -> DenoiserCall:
        return capture_call(
            pipeline, self.component_name, seed, **self._conditions_call(prompts, image), **self.call_options
        )

    def _conditions_call(self, prompts: list[str], image: Image.Image | None = None) -> dict[str, Any]:
        """The arguments of the pipeline's call that condition it. Without an image to edit, it is a blank one."""
        call: dict[str, Any] = {"prompt": self._as_argument(prompts)}
        if self.takes_reference_image:
            height, width = self.size or (0, 0)
            call[self.image_argument] = image or Image.new("RGB", (width, height), "gray")
        if not any(prompts):
            call |= {name: value for name, value in NOT_FOR_EMPTY.items() if name in self.parameters}
        return call

    def _as_argument(self, prompts: list[str]) -> str | list[str]:
        """Prompts as the call takes them: some pipelines take one prompt, as a text."""
        return prompts[0] if len(prompts) == 1 else prompts

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
        if self.at_sizes and reference_images is not None:
            return self._of_pixels(reference_images).encode_prompts(pipeline, prompts, None, reference_images)
        if not self.layout.takes_several:
            images = [None] * len(prompts) if reference_images is None else as_pictures(reference_images)
            return concatenate(
                [
                    self.split_call(self._capture(pipeline, [prompt], image=image), 1)
                    for prompt, image in zip(prompts, images)
                ]
            )
        if not NOT_FOR_EMPTY.keys() & self.parameters.keys():
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

    def prepare_sizes(self, pipeline: DiffusionPipeline, sizes: list[tuple[int, int]]) -> None:
        self.at_sizes = {}
        if set(sizes) <= {self.size}:
            return
        step = gcd(*(height for height, _ in sizes))
        at_sizes = {size: self._for_size(pipeline, size, size[0] // step) for size in sizes}
        if len({family._shape_at_size for family in at_sizes.values()}) < len(at_sizes):
            raise TwinFlowConfigError(
                f"{self.name} cannot be trained at these sizes, because its call rounds them, so that samples have the "
                "same shape at some of them: set `aspect_ratio_buckets` to sizes that it keeps."
            )
        shapes: list[tuple[int, ...]] = []
        for family in at_sizes.values():
            shape = family.sample_shape
            family.tie = shapes.count(shape)
            shapes.append(shape)
        self.at_sizes = at_sizes

    def _for_size(self, pipeline: DiffusionPipeline, size: tuple[int, int], rows: int) -> "Self":
        """The family for one of several sizes.

        Args:
            rows: height of the samples, in a unit that all sizes share.
        """
        sized = copy(self)
        sized.size, sized.rows, sized.call_options = size, rows, self.call_options | self._options_of(size)
        sized._find_layout(pipeline, self.longest_prompt or "")
        if not self.takes_reference_image:  # with one, prompts are encoded for each size
            sized.of_size = sized._parts_of_size(pipeline, self)
        return sized

    def _parts_of_size(self, pipeline: DiffusionPipeline, other: "CapturedFamily") -> dict[str, PartOfSize]:
        """The conditions, or parts of conditions, that depend on the size and not on the prompt.

        Args:
            other: the family for another size.

        Raises:
            TwinFlowConfigError: if some depend on both.
        """
        prompts = [SHORTEST_PROMPT, self.longest_prompt or "a"]
        ours, theirs = ([each.encode_prompts(pipeline, [prompt]) for prompt in prompts] for each in (self, other))
        parts = {
            name: part_of_size([each[name] for each in ours], [each.get(name) for each in theirs], name)
            for name in ours[0]
        }
        return {name: part for name, part in parts.items() if part is not None}

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
        """The shape of one sample. Each of several sizes has another shape.

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
        for family in self.at_sizes.values():
            family.prepare_images(pipeline)
        if self.at_sizes:
            return
        if self.layout is None or self.size is None:
            raise _not_prepared(self.name)
        call = self.call_options | self._conditions_call([""])
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
                "Its call chooses or rounds the size: set `resolution` or `aspect_ratio_buckets` to sizes that it keeps."
                if isinstance(error, DecodedSizeError)
                else "Train it with prompts only: set `twinflow_enabled`, `twinflow_image_free` and `prompts_file`."
            )
            raise TwinFlowConfigError(f"{self.name} cannot be trained on images: {error}. {remedy}") from error

    @property
    def sound_format(self) -> SoundFormat | None:
        codec = next((family.codec for family in self.at_sizes.values()), self.codec)
        return None if codec is None else codec.sound_format

    def encode_distribution(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor, sound: torch.Tensor | None = None
    ) -> LatentDistribution:
        """
        Raises:
            TwinFlowConfigError: if the pixels are of another size than `for_samples` was given.
        """
        family = self._of_pixels(pixels)
        if family.codec is None:
            raise TwinFlowConfigError(
                f"{self.name} has no family file, so how it decodes must be known before images are encoded: call "
                "`prepare_images` on the family after `prepare_prompts`."
            )
        mean, std = family.codec.encode(pixels, sound)
        shape = (len(pixels), *family.sample_shape)
        return LatentDistribution(mean.reshape(shape), None if std is None else std.reshape(shape))

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to pixels in [0, 1]. Sound is not decoded."""
        family = self._of_latents(latents)
        if family.layout is None or family.codec is None:
            raise _not_prepared(self.name)
        samples = family.layout.split_sample(latents)[0] if family.layout.beside else latents
        return to_unit_range(family.codec.decode_pixels(samples))

    def blank_latents(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.new_zeros(len(pixels), *self._of_pixels(pixels).sample_shape)

    def _of_pixels(self, pixels: torch.Tensor) -> "CapturedFamily":
        """The family for samples of this size."""
        height, width = pixels.shape[-2:]
        family = self if not self.at_sizes and self.size == (height, width) else self.at_sizes.get((height, width))
        if family is None:
            raise TwinFlowConfigError(
                f"{self.name} has no family file, so its conditions are for known sizes, and {height} x {width} pixels is "
                "none of them: call `prepare_sizes` on the family with all sizes."
            )
        return family

    def _of_latents(self, latents: torch.Tensor) -> "CapturedFamily":
        """The family for samples of this shape."""
        shape = tuple(latents.shape[1:])
        return next((family for family in self.at_sizes.values() if family.sample_shape == shape), self)

    def number_weights(
        self, shape: Sequence[int], device: torch.device | str = "cpu", part_weights: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        family = next((each for each in self.at_sizes.values() if each.sample_shape == tuple(shape)), self)
        weights = None if family.layout is None else family.layout.number_weights(device, part_weights)
        return None if weights is None else weights.reshape(-1, *shape)

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        if self.layout is None:
            raise _not_prepared(self.name)
        at_noise, at_data = self.layout.time_range
        return at_data + t * (at_noise - at_data)

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        if not self.at_sizes:
            return self._velocity(model)
        by_shape = {family.sample_shape: family._velocity(model) for family in self.at_sizes.values()}

        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            return by_shape[tuple(x_t.shape[1:])](x_t, t, r, sign, condition)

        return velocity

    def _velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        """The velocity of samples of one size."""
        velocity = self._call_velocity(model)
        return one_at_a_time(velocity) if self.takes_one_sample else velocity

    def _call_velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        """The velocity of as many samples as one call of the denoiser takes."""
        if self.layout is None:
            raise _not_prepared(self.name)
        layout = self.layout

        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            count, shape, device = len(x_t), x_t.shape, x_t.device
            condition = condition | {
                name: part.put(condition.get(name), count, "cpu" if name.startswith(ON_HOST) else device)
                for name, part in self.of_size.items()
            }
            arguments = {name: join(each, condition, count, device) for name, each in layout.arguments.items()}
            for place, part in zip(layout.places, layout.split_sample(x_t)):
                arguments[place.argument] = place.fill(part, condition.get(place.argument))
            arguments |= self.times(t, r, sign)
            for name in filter(None, (self.timestep_argument, *layout.repeated_times, layout.native_target)):
                time = self.timestep(r if r is not None and name == layout.native_target else t)
                time = time.reshape(-1, *[1] * len(layout.time_shape)).expand(-1, *layout.time_shape)
                arguments[name] = time[0] if self.takes_one_sample else time
            if layout.controlnet is not None:
                arguments |= layout.controlnet.run(arguments, condition, count, device)
            return layout.read(model(**arguments)).reshape(shape) * self.prediction_sign

        return velocity

    # Images of the stock call.

    def draw(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[Image.Image]:
        return [strip(frames) for frames in self.draw_frames(pipeline, prompts, images_per_prompt, **call_options)]

    def draw_frames(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[list[Image.Image]]:
        """`num_frames` of a video is 1 if the call does not say otherwise."""
        options = self._without_sound(pipeline) | ({"num_frames": 1} if self.draws_videos else {})
        options |= {"output_type": "pil"} | call_options
        per_prompt = {
            name: images_per_prompt
            for name in ("num_images_per_prompt", "num_videos_per_prompt")
            if name in self.parameters
        }
        takes_one = self.takes_reference_image or self.name in ONE_PROMPT
        calls = [[prompt] for prompt in prompts] if takes_one else [prompts]
        drawn = [
            each
            for some in calls
            for each in call_pipeline(pipeline, prompt=self._as_argument(some), **per_prompt, **options)[0]
        ]
        return drawn if self.draws_videos else [[image] for image in drawn]


def one_at_a_time(velocity: VelocityFunction) -> VelocityFunction:
    """Return a velocity function for any number of samples, from one that takes one sample."""

    def for_each(
        x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
    ) -> torch.Tensor:
        samples = range(len(x_t))
        parts = [
            velocity(
                x_t[i : i + 1],
                t[i : i + 1],
                None if r is None else r[i : i + 1],
                None if sign is None else sign[i : i + 1],
                {name: tensor[i : i + 1] for name, tensor in condition.items()},
            )
            for i in samples
        ]
        return torch.cat(parts)

    return for_each


def _not_prepared(name: str) -> TwinFlowConfigError:
    return TwinFlowConfigError(
        f"{name} has no family file, so how it calls its denoiser must be known first: call `for_samples` and then "
        "`prepare_prompts` on the family."
    )
