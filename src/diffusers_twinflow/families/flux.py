from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .packing import PackedFamily, position_ids

EMBEDDED_GUIDANCE = 1.0


class FluxFamily(PackedFamily):
    """FLUX.1 dev and schnell. Times are in 0..1, latents are packed in 2 x 2 patches, and dev gets guidance 1."""

    name = "flux"
    pipeline_class: type[DiffusionPipeline] = FluxPipeline
    transformer_class = twinflow_class_of(FluxTransformer2DModel)
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
        "proj_mlp",
        "single_transformer_blocks.*.proj_out",
        "norm1.linear",
        "norm1_context.linear",
        "norm.linear",
    ]
    max_sequence_length = 512
    guidance_off = {"guidance_scale": EMBEDDED_GUIDANCE, "true_cfg_scale": 1.0}

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        prompt_embeds, pooled_prompt_embeds, _ = pipeline.encode_prompt(
            prompts, None, max_sequence_length=max_sequence_length or self.max_sequence_length
        )
        return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        has_guidance = extract_model_from_parallel(model).config.guidance_embeds

        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            prompt_embeds = condition["prompt_embeds"]
            x_t = x_t.to(prompt_embeds.dtype)
            tokens = model(
                hidden_states=self.pack(x_t),
                encoder_hidden_states=prompt_embeds,
                pooled_projections=condition["pooled_prompt_embeds"],
                img_ids=position_ids(x_t),
                txt_ids=prompt_embeds.new_zeros(prompt_embeds.shape[1], 3),
                guidance=t.new_full(t.shape, EMBEDDED_GUIDANCE) if has_guidance else None,
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return self.unpack(tokens, *x_t.shape[-2:])

        return velocity
