import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .base import Family
from .encoding import LatentDistribution, to_unit_range
from .prompts import encode_empty_apart

INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


class SanaFamily(Family):
    """SANA. Times are in 0..1000. A prompt follows an instruction to enhance it; the empty prompt does not."""

    name = "sana"
    pipeline_class = SanaPipeline
    transformer_class = twinflow_class_of(SanaTransformer2DModel)
    lora_target_modules = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
        "ff.conv_inverted",
        "ff.conv_point",
        "time_embed.linear",
    ]
    max_sequence_length = 300

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        def encode(texts: list[str], instruction: list[str] | None) -> tuple[torch.Tensor, ...]:
            return pipeline.encode_prompt(
                texts,
                do_classifier_free_guidance=False,
                max_sequence_length=max_sequence_length or self.max_sequence_length,
                complex_human_instruction=instruction,
            )[:2]

        prompt_embeds, mask = encode_empty_apart(
            prompts, partial(encode, instruction=INSTRUCTION), partial(encode, instruction=None)
        )
        return {"prompt_embeds": prompt_embeds, "prompt_attention_mask": mask}

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        vae = pipeline.vae
        return LatentDistribution(vae.encode(pixels.to(vae.dtype)).latent * vae.config.scaling_factor)

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        vae = pipeline.vae
        return to_unit_range(vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0])

    def size_options(self, resolution: int) -> dict[str, Any]:
        return super().size_options(resolution) | {"use_resolution_binning": False}

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            dtype = condition["prompt_embeds"].dtype
            prediction = model(
                hidden_states=x_t.to(dtype),
                encoder_hidden_states=condition["prompt_embeds"],
                encoder_attention_mask=condition["prompt_attention_mask"],
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return prediction[:, : x_t.shape[1]]

        return velocity
