from collections.abc import Callable
from typing import Any

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch.nn import functional as F

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .flux import FluxFamily
from .packing import position_ids


class ChromaFamily(FluxFamily):
    """Chroma, which is FLUX.1 without a pooled prompt. All padding tokens except the first are masked."""

    name = "chroma"
    pipeline_class = ChromaPipeline
    transformer_class = twinflow_class_of(ChromaTransformer2DModel)
    lora_target_modules = [name for name in FluxFamily.lora_target_modules if "norm" not in name]
    guidance_off = {"guidance_scale": 0.0}

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        prompt_embeds, _, prompt_attention_mask, *_ = pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length or self.max_sequence_length,
        )
        return {"prompt_embeds": prompt_embeds, "prompt_attention_mask": prompt_attention_mask}

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            prompt_embeds = condition["prompt_embeds"]
            x_t = x_t.to(prompt_embeds.dtype)
            hidden_states = self.pack(x_t)
            tokens = model(
                hidden_states=hidden_states,
                encoder_hidden_states=prompt_embeds,
                img_ids=position_ids(x_t),
                txt_ids=prompt_embeds.new_zeros(prompt_embeds.shape[1], 3),
                attention_mask=F.pad(condition["prompt_attention_mask"], (0, hidden_states.shape[1]), value=1.0),
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return self.unpack(tokens, *x_t.shape[-2:])

        return velocity
