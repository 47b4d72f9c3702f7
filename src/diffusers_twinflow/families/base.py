"""The base class of families. A family adapts one kind of base model to the rest of the package."""

import fnmatch
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import nn

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from ..models import TwinFlowTransformerMixin, enable_twinflow, uncompiled
from .scheduler_kind import is_flow_matching

if TYPE_CHECKING:
    from typing_extensions import Self

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


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


class Family:
    """Adapts one kind of base model, such as FLUX.1, to training and sampling.

    A subclass sets the attributes and implements `encode_prompts` and `velocity`. It overrides other methods if its
    model differs. See docs/adding-a-family.md.

    Attributes:
        name: the name in configs and model cards.
        pipeline_class: the stock pipeline class.
        component_name: name of the pipeline's component that is trained.
        transformer_class: the TwinFlow class of that component.
        lora_target_modules: name suffixes of the linear layers that a LoRA adapts by default. If a name contains `*`,
            it is a pattern for whole names, such as `blocks.*.proj`.
        max_sequence_length: default length of an encoded prompt, in tokens. All prompts are encoded to one length, so
            that they can be stacked. Padding is masked as in the stock pipeline.
        guidance_off: arguments that turn guidance off in the stock pipeline, so that it calls the model once per step.
            A model with embedded guidance gets the same value here and in `velocity`. The value is 1 for such a model,
            because it then predicts the velocity of the data. `twinflow_enhanced_ratio` builds guidance in.
        trains_on_images: whether images can be encoded. If not, training needs `twinflow_image_free`.
        takes_sigmas: whether the stock call was tested to sample on the grid of its `sigmas`, if it takes them.
        saves_lora_by_pipeline: whether the stock pipeline class has a `save_lora_weights` that is used.
        takes_reference_image: whether the model edits an image. `encode_prompts` then needs reference images.
        draws_videos: whether the model generates videos and can be trained on them.
        timestep_argument: name of the timestep in the component's forward.
        task: the Hub's name of the pipeline's task.
        usual_base: Hub id of the default base for published transformers that name none; `None` if there is none.
        output_name: attribute of the stock call's output with the images or videos.
    """

    name: str
    pipeline_class: type[DiffusionPipeline]
    component_name: str = "transformer"
    transformer_class: type[TwinFlowTransformerMixin]
    lora_target_modules: list[str]
    max_sequence_length: int
    guidance_off: dict[str, float] = {"guidance_scale": 0.0}
    trains_on_images: bool = True
    takes_sigmas: bool = True
    saves_lora_by_pipeline: bool = True
    takes_reference_image: bool = False
    draws_videos: bool = False
    timestep_argument: str = "timestep"
    task: str = "text-to-image"
    usual_base: str | None = None
    output_name: str = "images"

    def load(self, name_or_path: str, **options: Any) -> DiffusionPipeline:
        """Load the stock pipeline. Components that it was saved without stay `None`.

        Args:
            name_or_path: local directory or Hub repository.
            options: arguments of `DiffusionPipeline.from_pretrained`. `dtype` defaults to float32 for every component,
                while diffusers leaves text encoders in the dtype of their files. `torch_dtype` is the old name of
                `dtype`.
        """
        index = self.load_index(name_or_path, options)
        absent = {name: None for name, component in index.items() if component == [None, None]}
        options.setdefault("dtype", options.pop("torch_dtype", torch.float32))
        return self.pipeline_class.from_pretrained(name_or_path, **(absent | options))

    def load_index(self, name_or_path: str, options: dict[str, Any]) -> dict[str, Any]:
        """Load the base's `model_index.json`. Only the options in `HUB_OPTIONS` are used."""
        hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
        index: Any = self.pipeline_class.load_config(name_or_path, **hub_options)
        return index

    def bind(self, pipeline: DiffusionPipeline) -> "Self":
        """Return the family for this pipeline. Call it before `velocity`, which may depend on the scheduler.

        Raises:
            TwinFlowConfigError: if the family cannot call a model with this scheduler.
        """
        scheduler = type(pipeline.scheduler).__name__
        if not is_flow_matching(scheduler, pipeline.scheduler.config):
            raise TwinFlowConfigError(
                f"The base's scheduler is a {scheduler}, which is for diffusion models, but {self.name} is a "
                "flow-matching family: give the base its flow-matching scheduler."
            )
        return self

    def for_samples(
        self,
        pipeline: DiffusionPipeline,
        *,
        resolution: int,
        num_frames: int | None = None,
        max_sequence_length: int | None = None,
    ) -> "Self":
        """The family as it is for the samples of a run; most families need not know them.

        Args:
            pipeline: the base, with its text encoders.
            resolution: pixels of a side.
            num_frames: length of clips; `None` for images.
            max_sequence_length: tokens of every encoded prompt; `None` for the default.
        """
        return self

    def prepare_prompts(self, pipeline: DiffusionPipeline, prompts: list[str]) -> None:
        """Learn the prompts of a run before the first is encoded; most families need not know them.

        Args:
            pipeline: the base, with its text encoders on the device.
            prompts: all of them; none if they are not known.
        """

    def condition_identity(self) -> dict[str, Any]:
        """What conditions depend on besides the prompt, the encoders and `max_sequence_length`, for caches on disk."""
        return {}

    def assemble(self, pipeline: DiffusionPipeline, components: dict[str, Any] | None = None) -> DiffusionPipeline:
        """Create a stock pipeline with the options of `pipeline`, such as `expand_timesteps`.

        Args:
            pipeline: the pipeline whose options are copied.
            components: all components by name; defaults to the components of `pipeline`.
        """
        options = {
            name: pipeline.config[name]
            for name in inspect.signature(self.pipeline_class.__init__).parameters
            if name in pipeline.config and name not in pipeline.components
        }
        return self.pipeline_class(**(components or pipeline.components), **options)

    def save_lora(
        self, directory: str | Path, weight_name: str, weights: dict[str, torch.Tensor], metadata: dict[str, Any]
    ) -> None:
        """Save the component's low-rank weights as a plain diffusers LoRA.

        Args:
            directory: output folder.
            weight_name: name of the file.
            weights: low-rank weights by their names in the component.
            metadata: fields of the adapter's `LoraConfig`.
        """
        if not self.saves_lora_by_pipeline:
            layers: dict[str, nn.Module | torch.Tensor] = {**weights}
            prefix = self.component_name
            LoraBaseMixin._save_lora_weights(directory, {prefix: layers}, {prefix: metadata}, weight_name=weight_name)
            return
        named = {"lora_layers": weights, "lora_adapter_metadata": metadata}
        pipeline_class: Any = self.pipeline_class  # LoRA loaders are mixins of the stock pipelines
        pipeline_class.save_lora_weights(
            directory, weight_name=weight_name, **{f"{self.component_name}_{k}": v for k, v in named.items()}
        )

    def load_lora(
        self,
        pipeline: DiffusionPipeline,
        weights: dict[str, torch.Tensor],
        metadata: dict[str, Any],
        adapter_name: str,
    ) -> None:
        """Load low-rank weights into a pipeline's component. A stock class that takes no adapters becomes a TwinFlow class.

        Args:
            pipeline: the pipeline.
            weights: low-rank weights by their names in the component.
            metadata: fields of the adapter's `LoraConfig`.
            adapter_name: name of the adapter.
        """
        denoiser = self.denoiser(pipeline)
        if not isinstance(denoiser, PeftAdapterMixin):
            enable_twinflow(denoiser, self.transformer_class)
        denoiser.load_lora_adapter(
            weights, prefix=None, metadata=metadata, adapter_name=adapter_name, _pipeline=pipeline
        )

    def denoiser(self, pipeline: DiffusionPipeline) -> ModelMixin:
        """Return the component that is trained, without the wrapper of `torch.compile`."""
        return uncompiled(getattr(pipeline, self.component_name))

    def is_of(self, model: nn.Module) -> bool:
        """Whether this family trains models of this class, stock or TwinFlow."""
        return isinstance(uncompiled(model), self.transformer_class.stock_class())

    def lora_targets(self, model: ModelMixin) -> list[str]:
        """Return the `target_modules` of a LoRA: `lora_target_modules` with patterns replaced by the matching names."""
        names = [name for name, _ in model.named_modules()]
        found = [fnmatch.filter(names, target) if "*" in target else [target] for target in self.lora_target_modules]
        return [name for targets in found for name in targets]

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

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        """Wrap the model in a function `(x_t, t, r, sign, condition) -> velocity`, where the velocity is noise - data.

        `x_t` and the velocity have the shape of the latents of `encode_images`. `t` and `r` are in [0, 1] with 1 at
        noise, shape [B]. With `r=None` and `sign=None` the stock model is called.
        """
        raise NotImplementedError

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        """Convert times in [0, 1], with 1 at noise, to the unit of the model's forward, by default 0 to 1000."""
        return t * 1000.0

    def times(self, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the time arguments of the forward. If `r` and `sign` are `None`, the stock forward accepts them."""
        times: dict[str, torch.Tensor] = {self.timestep_argument: self.timestep(t)}
        if r is not None:
            times["target_timestep"] = self.timestep(r)
        if sign is not None:
            times["timestep_sign"] = sign
        return times

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Convert latents to the layout of the stock pipeline's `latents` argument."""
        return latents

    def unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Undo `pack`. `height` and `width` are the size of the unpacked latents."""
        return packed

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

    def check_num_frames(self, pipeline: DiffusionPipeline, num_frames: int) -> None:
        """Raise a `TwinFlowConfigError` if videos with this number of frames cannot be encoded."""
        self.check_draws_videos(num_frames)

    def check_draws_videos(self, num_frames: int | None) -> None:
        """Check that a number of frames is given only for a base that generates videos.

        Raises:
            TwinFlowConfigError: if `num_frames` is given and the base generates images.
        """
        if num_frames is not None and not self.draws_videos:
            raise TwinFlowConfigError(
                f"num_frames={num_frames} is not valid for {self.pipeline_class.__name__}, which generates no videos: "
                "leave it out."
            )


def call_pipeline(pipeline: Any, **options: Any) -> Any:
    """Call a stock pipeline. For type checkers, because diffusers' base class declares no `__call__`."""
    return pipeline(**options)


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """Convert pixels in [-1, 1] to [0, 1]."""
    return (pixels / 2 + 0.5).clamp(0, 1)


def _shift(vae: ModelMixin) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
