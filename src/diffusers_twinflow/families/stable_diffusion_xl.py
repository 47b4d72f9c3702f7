from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition
from ..models import twinflow_class_of
from .diffusion import DiffusionFamily
from .encoding import LatentDistribution
from .prompts import check_clip_length, encode_empty_apart
from .stable_diffusion import UNET_LORA_TARGETS

if TYPE_CHECKING:
    from typing_extensions import Self


class StableDiffusionXLFamily(DiffusionFamily):
    """Stable Diffusion XL. It has two CLIP encoders and a pooled prompt, and is told that images are not cropped."""

    name = "stable_diffusion_xl"
    pipeline_class = StableDiffusionXLPipeline
    component_name = "unet"
    transformer_class = twinflow_class_of(UNet2DConditionModel)
    lora_target_modules = UNET_LORA_TARGETS
    max_sequence_length = 77
    vae_scale_factor = 8

    def bind(self, pipeline: DiffusionPipeline) -> "Self":
        bound = super().bind(pipeline)
        bound.vae_scale_factor = pipeline.vae_scale_factor
        return bound

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        check_clip_length(pipeline.tokenizer_2, max_sequence_length)

        def encode(texts: list[str]) -> tuple[torch.Tensor, ...]:
            prompt_embeds, _, pooled, _ = pipeline.encode_prompt(texts, do_classifier_free_guidance=False)
            return prompt_embeds, pooled

        def encode_empty(texts: list[str]) -> tuple[torch.Tensor, ...]:
            encoded = encode(texts)
            zeros = pipeline.config["force_zeros_for_empty_prompt"]
            return tuple(torch.zeros_like(tensor) for tensor in encoded) if zeros else encoded

        prompt_embeds, pooled = encode_empty_apart(prompts, encode, encode_empty)
        return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled}

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        with _precise(pipeline.vae):
            return super().encode_distribution(pipeline, pixels)

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        with _precise(pipeline.vae):
            return super().decode_latents(pipeline, latents)

    def predict(
        self, model: Callable[..., Any], sample: torch.Tensor, times: dict[str, torch.Tensor], condition: Condition
    ) -> torch.Tensor:
        height, width = (sample.new_full((len(sample), 1), side * self.vae_scale_factor) for side in sample.shape[-2:])
        corner = torch.zeros_like(height)
        size = torch.cat([height, width, corner, corner, height, width], dim=1)
        added = {"text_embeds": condition["pooled_prompt_embeds"], "time_ids": size}
        return model(
            sample=sample,
            encoder_hidden_states=condition["prompt_embeds"],
            added_cond_kwargs=added,
            return_dict=False,
            **times,
        )[0]


@contextmanager
def _precise(vae: Any) -> Iterator[None]:
    """Convert an autoencoder that overflows in float16 to float32 within the context, as the stock pipeline does."""
    overflows = vae.dtype == torch.float16 and vae.config.force_upcast
    if overflows:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if overflows:
            vae.to(torch.float16)
