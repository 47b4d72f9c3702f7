from collections.abc import Callable
from typing import Any

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .base import Family


class AuraFlowFamily(Family):
    """AuraFlow. Times are in 0..1 with 1 = noise. Prompt padding has zero embeddings and is not masked."""

    name = "aura_flow"
    pipeline_class = AuraFlowPipeline
    transformer_class = twinflow_class_of(AuraFlowTransformer2DModel)
    lora_target_modules = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.linear_1",
        "ff.linear_2",
        "ff.out_projection",
        "ff_context.linear_1",
        "ff_context.linear_2",
        "ff_context.out_projection",
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
        prompt_embeds, *_ = pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length or self.max_sequence_length,
        )
        return {"prompt_embeds": prompt_embeds}

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            dtype = condition["prompt_embeds"].dtype
            return model(
                hidden_states=x_t.to(dtype),
                encoder_hidden_states=condition["prompt_embeds"],
                return_dict=False,
                **self.times(t, r, sign),
            )[0]

        return velocity
