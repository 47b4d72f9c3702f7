from collections.abc import Callable
from typing import Any

import torch
from diffusers import Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .base import Family
from .encoding import LatentDistribution, to_unit_range

EMBEDDED_GUIDANCE = 1.0


class Flux2Family(Family):
    """FLUX.2. Times are in 0..1, the embedded guidance is 1, and latents are 2 x 2 patches, normalized per channel."""

    name = "flux2"
    pipeline_class = Flux2Pipeline
    transformer_class = twinflow_class_of(Flux2Transformer2DModel)
    lora_target_modules = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.linear_in",
        "ff.linear_out",
        "ff_context.linear_in",
        "ff_context.linear_out",
        "attn.to_qkv_mlp_proj",
        "single_transformer_blocks.*.attn.to_out",
        "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.linear",
        "single_stream_modulation.linear",
    ]
    max_sequence_length = 512
    guidance_off = {"guidance_scale": EMBEDDED_GUIDANCE}

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        prompt_embeds, _ = pipeline.encode_prompt(
            prompts, max_sequence_length=max_sequence_length or self.max_sequence_length
        )
        return {"prompt_embeds": prompt_embeds}

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        """Encode pixels to latents of shape [B, 4 * C, h / 2, w / 2], the layout of the stock `latents` argument."""
        return LatentDistribution(pipeline._encode_vae_image(pixels.to(pipeline.vae.dtype), generator=None))

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        vae = pipeline.vae
        mean = vae.bn.running_mean.view(1, -1, 1, 1)
        std = (vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).sqrt()
        latents = pipeline._unpatchify_latents(latents * std + mean)
        return to_unit_range(vae.decode(latents.to(vae.dtype), return_dict=False)[0])

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return packed.transpose(1, 2).unflatten(2, (height, width))

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            prompt_embeds = condition["prompt_embeds"]
            tokens = model(
                hidden_states=Flux2Pipeline._pack_latents(x_t.to(prompt_embeds.dtype)),
                encoder_hidden_states=prompt_embeds,
                img_ids=position_ids(x_t.device, 1, *x_t.shape[-2:], 1),
                txt_ids=position_ids(x_t.device, 1, 1, 1, prompt_embeds.shape[1]),
                guidance=t.new_full(t.shape, EMBEDDED_GUIDANCE),
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return self.unpack(tokens, *x_t.shape[-2:])

        return velocity


def position_ids(device: torch.device, *sizes: int) -> torch.Tensor:
    """Return the positions of all tokens in a grid of these four sizes, shape [tokens, 4]."""
    return torch.cartesian_prod(*(torch.arange(size, device=device) for size in sizes))
