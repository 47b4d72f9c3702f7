"""What the rest of the package needs to know of a base model; one subclass a model, and nothing about the loss."""

import fnmatch
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import nn

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from ..models import TwinFlowTransformerMixin, uncompiled
from .scheduler_kind import is_flow_matching

if TYPE_CHECKING:
    from typing_extensions import Self

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class LatentDistribution(NamedTuple):
    """Latents of a batch of images as an autoencoder gives them: normal, and independent of each other.

    Attributes:
        mean: shape [B, C, h, w].
        std: of the same shape; `None` if the latents are the mean.
    """

    mean: torch.Tensor
    std: torch.Tensor | None = None

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """The latents for normal noise of the same shape, in the noise's type."""
        mean = self.mean.to(noise.dtype)
        return mean if self.std is None else mean + self.std.to(noise.dtype) * noise


class Family:
    """How one diffusers model is called, packed and scaled.

    Attributes:
        name: the name in configurations and model cards.
        pipeline_class: the stock pipeline.
        component_name: the pipeline's component that is trained.
        transformer_class: the `timestep_sign` aware class of that component.
        lora_target_modules: ends of the names of the linear layers that a LoRA adapts by default; a `*` stands for the
            number of a block in a whole name.
        max_sequence_length: default length of an encoded prompt, in tokens. Every prompt is encoded to one length, so
            that conditions stack; padding is masked as the stock pipeline masks it.
        guidance_off: arguments that make the stock pipeline's call one evaluation a step. A model with embedded
            guidance gets the same value here and in `velocity`: 1, where the base predicts the velocity of the data
            itself, which is what the loss compares with; guidance is baked in by `twinflow_enhanced_ratio`.
        takes_reference_image: whether the model edits an image that it is given; `encode_prompts` then needs it.
        draws_videos: whether it draws clips and can be trained on them; `check_num_frames` then says of which lengths.
        timestep_argument: what the component's forward calls its timestep.
        task: what the Hub calls what the pipeline does.
        usual_base: Hub id of the pipeline that others' transformers without one were made from.
        output_name: where the stock call's output holds its pictures or videos.
    """

    name: str
    pipeline_class: type[DiffusionPipeline]
    component_name: str = "transformer"
    transformer_class: type[TwinFlowTransformerMixin]
    lora_target_modules: list[str]
    max_sequence_length: int
    guidance_off: dict[str, float] = {"guidance_scale": 0.0}
    takes_reference_image: bool = False
    draws_videos: bool = False
    timestep_argument: str = "timestep"
    task: str = "text-to-image"
    usual_base: str | None = None
    output_name: str = "images"

    def load(self, name_or_path: str, **options: Any) -> DiffusionPipeline:
        """The stock pipeline, as its `from_pretrained` loads it; components that it was saved without stay `None`.

        Args:
            options: as `DiffusionPipeline.from_pretrained` takes them. The default `dtype` is float32 for every
                component; diffusers alone leaves text encoders in the dtype that they were saved in. `torch_dtype` is
                the old name of `dtype`.
        """
        index = self.load_index(name_or_path, options)
        absent = {name: None for name, component in index.items() if component == [None, None]}
        options.setdefault("dtype", options.pop("torch_dtype", torch.float32))
        return self.pipeline_class.from_pretrained(name_or_path, **(absent | options))

    def load_index(self, name_or_path: str, options: dict[str, Any]) -> dict[str, Any]:
        """The base's `model_index.json`; of `options` those count that say where it is."""
        hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
        index: Any = self.pipeline_class.load_config(name_or_path, **hub_options)
        return index

    def bind(self, pipeline: DiffusionPipeline) -> "Self":
        """The family as it is for this pipeline; families whose `velocity` depends on its scheduler need it first.

        Raises:
            TwinFlowConfigError: where the scheduler says that the model is none that the family can call.
        """
        scheduler = type(pipeline.scheduler).__name__
        if not is_flow_matching(scheduler, pipeline.scheduler.config):
            raise TwinFlowConfigError(
                f"the base's scheduler is a {scheduler}, for a diffusion model, and {self.name} is no diffusion family: "
                "give the base its flow-matching scheduler."
            )
        return self

    def assemble(self, pipeline: DiffusionPipeline, components: dict[str, Any] | None = None) -> DiffusionPipeline:
        """A new stock pipeline with the options of `pipeline`, such as Wan's `expand_timesteps`.

        Args:
            components: all components by name; defaults to those of `pipeline`.
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
        """Write the component's low-rank weights as a plain diffusers LoRA, as the stock pipeline does.

        Args:
            metadata: fields of the adapter's `LoraConfig`.
        """
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
        """Put low-rank weights on a pipeline's component.

        Args:
            weights: by the names that they have in the component.
            metadata: fields of the adapter's `LoraConfig`.
        """
        self.denoiser(pipeline).load_lora_adapter(
            weights, prefix=None, metadata=metadata, adapter_name=adapter_name, _pipeline=pipeline
        )

    def denoiser(self, pipeline: DiffusionPipeline) -> ModelMixin:
        """The component that is trained, without what `torch.compile` wraps around it."""
        return uncompiled(getattr(pipeline, self.component_name))

    def is_of(self, model: nn.Module) -> bool:
        """Whether a model is one that this family trains, stock or TwinFlow."""
        return isinstance(uncompiled(model), self.transformer_class.stock_class())

    def lora_targets(self, model: ModelMixin) -> list[str]:
        """The `target_modules` of a LoRA: `lora_target_modules` with patterns as the names that they stand for."""
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
        """Everything the model is conditioned on, as tensors of batch `len(prompts)`; "" is the empty prompt of CFG.

        Args:
            max_sequence_length: tokens of every encoded prompt; defaults to the family's.
            reference_images: pixels in [-1, 1], shape [B, 3, H, W], where the family takes a reference image.
        """
        raise NotImplementedError

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        """The scaled latents, shape [B, C, h, w], of pixels in [-1, 1], shape [B, 3, H, W], before anything random.

        Training adds noise that depends on a sample's position in the run alone.
        """
        vae = pipeline.vae
        encoded = vae.encode(pixels.to(vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return LatentDistribution((encoded.mean - _shift(vae)) * scale, encoded.std * scale)

    def encode_images(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Latents drawn from `encode_distribution`, by the global random numbers if there is no generator."""
        distribution = self.encode_distribution(pipeline, pixels)
        mean = distribution.mean
        return distribution.sample(randn_tensor(mean.shape, generator, mean.device, mean.dtype))

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1], shape [B, 3, H, W], of scaled latents."""
        vae = pipeline.vae
        latents = latents / vae.config.scaling_factor + _shift(vae)
        return to_unit_range(vae.decode(latents.to(vae.dtype), return_dict=False)[0])

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        """The model in canonical form: `(x_t, t, r, sign, condition) -> F`, F = noise - data.

        `x_t` and F have the shape of `encode_images`' latents; `t` and `r` are in [0, 1] with 1 = noise, shape [B];
        `r = None` and `sign = None` call the stock model.
        """
        raise NotImplementedError

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        """A time in [0, 1], 1 = noise, in the unit of the model's forward: 0..1000 unless a family says otherwise."""
        return t * 1000.0

    def times(self, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The forward's arguments for canonical times; the stock forward's alone where `r` and `sign` are `None`."""
        times: dict[str, torch.Tensor] = {self.timestep_argument: self.timestep(t)}
        if r is not None:
            times["target_timestep"] = self.timestep(r)
        if sign is not None:
            times["timestep_sign"] = sign
        return times

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Canonical latents as the stock pipeline's `latents` argument takes them."""
        return latents

    def unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """What `pack` made, as canonical latents again; height and width are those of the canonical latents."""
        return packed

    def size_options(self, resolution: int) -> dict[str, Any]:
        """Arguments of the stock call for pictures of `resolution` times `resolution` pixels."""
        return {"height": resolution, "width": resolution}

    def draw(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[Image.Image]:
        """Pictures of the stock call, `images_per_prompt` of each prompt in turn; of a video some frames side by side."""
        return call_pipeline(pipeline, prompt=prompts, num_images_per_prompt=images_per_prompt, **call_options).images

    def draw_frames(
        self, pipeline: DiffusionPipeline, prompts: list[str], images_per_prompt: int = 1, **call_options: Any
    ) -> list[list[Image.Image]]:
        """As `draw`, with all frames of each video; a picture is one frame."""
        return [[image] for image in self.draw(pipeline, prompts, images_per_prompt, **call_options)]

    def check_num_frames(self, pipeline: DiffusionPipeline, num_frames: int) -> None:
        """Raise a `TwinFlowConfigError` where clips of so many frames cannot be encoded."""
        self.check_draws_videos(num_frames)

    def check_draws_videos(self, num_frames: int | None) -> None:
        """
        Raises:
            TwinFlowConfigError: where a number of frames is given to a base that draws no videos.
        """
        if num_frames is not None and not self.draws_videos:
            raise TwinFlowConfigError(
                f"num_frames={num_frames} is not for {self.pipeline_class.__name__}, which draws no videos: leave it "
                "out."
            )


def call_pipeline(pipeline: Any, **options: Any) -> Any:
    """The output of a stock call. The base class of pipelines declares no call, since each pipeline has its own."""
    return pipeline(**options)


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels of [-1, 1] in [0, 1]."""
    return (pixels / 2 + 0.5).clamp(0, 1)


def _shift(vae: ModelMixin) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
