"""How prompts and images of a family are encoded."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from ..conditions import Condition

if TYPE_CHECKING:
    from .sound import SoundFormat


class LatentDistribution(NamedTuple):
    """The distribution of the latents of a batch of images: independent normal distributions.

    Attributes:
        mean: shape [B, C, h, w].
        std: same shape; `None` if the latents equal the mean.
    """

    mean: torch.Tensor
    std: torch.Tensor | None = None

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """Return latents sampled with standard normal noise of the same shape, in the dtype of the noise."""
        mean = self.mean.to(noise.dtype)
        return mean if self.std is None else mean + self.std.to(noise.dtype) * noise


class Encoding:
    """The half of a `Family` that encodes prompts to conditions and images to latents, and decodes latents.

    Attributes:
        max_sequence_length: default length of an encoded prompt, in tokens. All prompts are encoded to one length, so
            that they can be stacked. Padding is masked as in the stock pipeline.
        takes_reference_image: whether the model edits an image. `encode_prompts` then needs reference images.
        image_argument: name of the stock call's argument for that image.
        sound_frame_rate: frames per second of videos that the model generates with sound; `None` if it generates none.
            `encode_distribution` then takes `sound` too, waveforms in `sound_format`.
        sound_format: the waveforms of a run, which are known after `prepare_images`.
    """

    max_sequence_length: int
    takes_reference_image: bool = False
    image_argument: str = "image"
    sound_frame_rate: float | None = None

    @property
    def sound_format(self) -> "SoundFormat | None":
        return None

    def prepare_prompts(self, pipeline: DiffusionPipeline, prompts: list[str]) -> None:
        """Learn the prompts of a run before the first is encoded. Most families need not know them.

        Args:
            pipeline: the base, with its text encoders on the device.
            prompts: all prompts of the run. Empty if they are not known.
        """

    def prepare_sizes(self, pipeline: DiffusionPipeline, sizes: list[tuple[int, int]]) -> None:
        """Learn the sizes of a run's samples, after `prepare_prompts`. Most families need not know them.

        Args:
            pipeline: the base, with its text encoders on the device.
            sizes: every (height, width) in pixels.

        Raises:
            TwinFlowConfigError: if this base cannot be trained at several sizes.
        """

    def prepare_images(self, pipeline: DiffusionPipeline) -> None:
        """Learn how images are encoded before the first is. Most families know it.

        Args:
            pipeline: the base, with its autoencoder on the device.

        Raises:
            TwinFlowConfigError: if this base cannot be trained on images.
        """

    def condition_identity(self) -> dict[str, Any]:
        """Return what conditions depend on besides the prompt, the encoders and `max_sequence_length`, for caches."""
        return {}

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        """Encode prompts to the condition of the model, with batch size `len(prompts)`.

        Args:
            pipeline: the stock pipeline.
            prompts: the prompts; "" is the empty prompt of classifier-free guidance.
            max_sequence_length: number of tokens of every encoded prompt; defaults to the family's value.
            reference_images: pixels in [-1, 1], shape [B, 3, H, W], if the family takes a reference image.
        """
        raise NotImplementedError

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        """Encode pixels to the distribution of their scaled latents, which draws no random numbers.

        Args:
            pipeline: the stock pipeline.
            pixels: pixels in [-1, 1], shape [B, 3, H, W].

        Returns:
            `LatentDistribution` of shape [B, C, h, w].
        """
        vae = pipeline.vae
        encoded = vae.encode(pixels.to(vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return LatentDistribution((encoded.mean - _shift(vae)) * scale, encoded.std * scale)

    def blank_latents(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
        """Return zeros of the shape of the latents of these pixels, for training without images."""
        return torch.zeros_like(self.encode_distribution(pipeline, pixels).mean)

    def encode_images(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Sample latents from `encode_distribution`, with the global random state if there is no generator."""
        distribution = self.encode_distribution(pipeline, pixels)
        mean = distribution.mean
        return distribution.sample(randn_tensor(mean.shape, generator, mean.device, mean.dtype))

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents to pixels in [0, 1], shape [B, 3, H, W]."""
        vae = pipeline.vae
        latents = latents / vae.config.scaling_factor + _shift(vae)
        return to_unit_range(vae.decode(latents.to(vae.dtype), return_dict=False)[0])

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Convert latents to the layout of the stock pipeline's `latents` argument."""
        return latents

    def unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Undo `pack`. `height` and `width` are the size of the unpacked latents."""
        return packed


def as_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Convert pixels in [-1, 1], shape [B, 3, H, W], to PIL images."""
    return VaeImageProcessor().postprocess(pixels.float().cpu(), output_type="pil")


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """Convert pixels in [-1, 1] to [0, 1]."""
    return (pixels / 2 + 0.5).clamp(0, 1)


def _shift(vae: ModelMixin) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
