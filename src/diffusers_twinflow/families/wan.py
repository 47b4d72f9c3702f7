from collections.abc import Callable
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .encoding import LatentDistribution, to_unit_range
from .packing import latent_statistics
from .video import VideoFamily, as_video


class WanFamily(VideoFamily):
    """Wan 2.1 and 2.2, text to video. Times are in 0..1000 and the same for every token."""

    name = "wan"
    pipeline_class = WanPipeline
    transformer_class = twinflow_class_of(WanTransformer3DModel)
    lora_target_modules = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
        "ffn.net.0.proj",
        "ffn.net.2",
        "condition_embedder.time_proj",
    ]
    max_sequence_length = 512

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        prompt_embeds, _ = pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length or self.max_sequence_length,
        )
        return {"prompt_embeds": prompt_embeds}

    def temporal_compression(self, pipeline: DiffusionPipeline) -> int:
        return pipeline.vae_scale_factor_temporal

    def frame_rate(self, pipeline: DiffusionPipeline) -> float:
        """Return 24 for Wan 2.2 5B, the model with times per token, and 16 otherwise."""
        return 24 if pipeline.config["expand_timesteps"] else 16

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        """Encode images [B, 3, H, W] or videos [B, 3, F, H, W], with F = 1, 5, 9, ..."""
        vae = pipeline.vae
        mean, std = latent_statistics(vae, pixels.device)
        video = as_video(pixels, self.temporal_compression(pipeline))
        return LatentDistribution((vae.encode(video.to(vae.dtype)).latent_dist.mode() - mean) / std)

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to pixels of shape [B, 3, F, H, W]."""
        vae = pipeline.vae
        mean, std = latent_statistics(vae, latents.device)
        return to_unit_range(vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0])

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
