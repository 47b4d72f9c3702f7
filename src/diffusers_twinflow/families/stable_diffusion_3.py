from collections.abc import Callable
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import TwinFlowSD3Transformer2DModel
from .base import Family


class StableDiffusion3Family(Family):
    """Stable Diffusion 3 and 3.5. The transformer takes times in 0..1000 and predicts noise minus data."""

    name = "stable_diffusion_3"
    pipeline_class = StableDiffusion3Pipeline
    transformer_class = TwinFlowSD3Transformer2DModel
    lora_target_modules = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
        "norm1.linear",
        "norm1_context.linear",
    ]
    max_sequence_length = 256

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        prompt_embeds, _, pooled_prompt_embeds, _ = pipeline.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length or self.max_sequence_length,
        )
        return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            return model(
                hidden_states=x_t.to(condition["prompt_embeds"].dtype),
                encoder_hidden_states=condition["prompt_embeds"],
                pooled_projections=condition["pooled_prompt_embeds"],
                return_dict=False,
                **self.times(t, r, sign),
            )[0]

        return velocity
