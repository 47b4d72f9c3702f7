"""A family for any stock or modular flow pipeline. Its conditions are the arguments that the pipeline passes to its denoiser."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from math import gcd
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from .call_velocity import by_shape
from .captured_at_size import SHORTEST_PROMPT, CapturedAtSize, unknown_size
from .encoding import LatentDistribution
from .modular_blocks import blocks_pipeline_class
from .size_parts import PartOfSize, part_of_size
from .sound import SoundFormat
from .stock_calls import denoiser_of

if TYPE_CHECKING:
    from typing_extensions import Self


def captured_family(class_name: str) -> "CapturedFamily | None":
    """The derived family of a stock or modular class of diffusers; `None` if the table has no denoiser of it."""
    pipeline_class = blocks_pipeline_class(class_name) or getattr(diffusers, class_name, None)
    if not (isinstance(pipeline_class, type) and issubclass(pipeline_class, DiffusionPipeline)):
        return None
    found = denoiser_of(pipeline_class)
    return None if found is None else CapturedFamily(pipeline_class, *found)


class CapturedFamily(CapturedAtSize):
    """A family derived from a stock flow pipeline without a family, for samples of one size or of several.

    A run with several sizes calls `prepare_sizes` before `prepare_images`. Samples of each size then go to the family of
    that size. The conditions of that family depend on the prompt and on the size.

    Attributes:
        at_sizes: the family of each size in pixels; empty for a run with one size.
    """

    at_sizes: "Mapping[tuple[int, int], CapturedFamily]" = {}

    def prepare_sizes(self, pipeline: DiffusionPipeline, sizes: list[tuple[int, int]]) -> None:
        self.at_sizes = {}
        if set(sizes) <= {self.size}:
            return
        step = gcd(*(height for height, _ in sizes))
        at_sizes = {size: self._for_size(pipeline, size, size[0] // step) for size in sizes}
        if len({family._shape_at_size for family in at_sizes.values()}) < len(at_sizes):
            raise TwinFlowConfigError(
                f"{self.name} cannot be trained at these sizes, because its call rounds some of them to the same size: "
                "set `aspect_ratio_buckets` to sizes that it does not round."
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
        sized.size, sized.rows = size, rows
        sized.call_options = self.call_options | self.stock_call.size_options(*size)
        sized._find_layout(pipeline, self.longest_prompt or "")
        if not self.takes_reference_image:  # with one, prompts are encoded for each size
            sized.of_size = sized._parts_of_size(pipeline, self)
        return sized

    def _parts_of_size(self, pipeline: DiffusionPipeline, other: CapturedAtSize) -> dict[str, PartOfSize]:
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

    def _of_pixels(self, pixels: torch.Tensor) -> "CapturedFamily":
        """The family for samples of this size."""
        height, width = pixels.shape[-2:]
        if (height, width) not in self.at_sizes:
            raise unknown_size(self.name, pixels)
        return self.at_sizes[height, width]

    def _of_shape(self, shape: Sequence[int]) -> "CapturedFamily | None":
        """The family for samples of this shape; `None` if it is none of several sizes."""
        return next((family for family in self.at_sizes.values() if family.sample_shape == tuple(shape)), None)

    # Each of these asks the family of a size.

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        if not self.at_sizes or reference_images is None:
            return super().encode_prompts(pipeline, prompts, max_sequence_length, reference_images)
        return self._of_pixels(reference_images).encode_prompts(pipeline, prompts, None, reference_images)

    def prepare_images(self, pipeline: DiffusionPipeline) -> None:
        if not self.at_sizes:
            super().prepare_images(pipeline)
        for family in self.at_sizes.values():
            family.prepare_images(pipeline)

    @property
    def sound_format(self) -> SoundFormat | None:
        return next((family.sound_format for family in self.at_sizes.values()), super().sound_format)

    def encode_distribution(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor, sound: torch.Tensor | None = None
    ) -> LatentDistribution:
        if not self.at_sizes:
            return super().encode_distribution(pipeline, pixels, sound)
        return self._of_pixels(pixels).encode_distribution(pipeline, pixels, sound)

    def blank_latents(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
        if not self.at_sizes:
            return super().blank_latents(pipeline, pixels)
        return self._of_pixels(pixels).blank_latents(pipeline, pixels)

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        family = self._of_shape(latents.shape[1:])
        return (
            super().decode_latents(pipeline, latents) if family is None else family.decode_latents(pipeline, latents)
        )

    def number_weights(
        self, shape: Sequence[int], device: torch.device | str = "cpu", part_weights: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        family = self._of_shape(shape)
        if family is None:
            return super().number_weights(shape, device, part_weights)
        return family.number_weights(shape, device, part_weights)

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        if not self.at_sizes:
            return super().velocity(model)
        return by_shape({family.sample_shape: family.velocity(model) for family in self.at_sizes.values()})
