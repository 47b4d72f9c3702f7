from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .base import Family
from .prompts import encode_empty_apart


class Lumina2Family(Family):
    """Lumina Image 2. Times are in 0..1 with 1 = data, and it predicts data minus noise.

    The empty prompt has no system prompt.
    """

    name = "lumina2"
    pipeline_class = Lumina2Pipeline
    transformer_class = twinflow_class_of(Lumina2Transformer2DModel)
    lora_target_modules = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "feed_forward.linear_1",
        "feed_forward.linear_2",
        "feed_forward.linear_3",
        "norm1.linear",
    ]
    max_sequence_length = 256

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        encode = partial(pipeline.encode_prompt, max_sequence_length=max_sequence_length or self.max_sequence_length)
        prompt_embeds, mask = encode_empty_apart(
            prompts,
            lambda texts: encode(texts, do_classifier_free_guidance=False)[:2],
            lambda texts: encode(texts, do_classifier_free_guidance=True, negative_prompt=texts)[2:],
        )
        return {"prompt_embeds": prompt_embeds, "prompt_attention_mask": mask}

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        return 1 - t

    reads_conditions = True

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            dtype = condition["prompt_embeds"].dtype
            return -model(
                hidden_states=x_t.to(dtype),
                encoder_hidden_states=condition["prompt_embeds"],
                encoder_attention_mask=condition["prompt_attention_mask"],
                return_dict=False,
                **self.times(t, r, sign),
            )[0]

        return velocity
