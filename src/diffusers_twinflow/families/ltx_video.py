import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import LTXPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .encoding import LatentDistribution, to_unit_range
from .video import VideoFamily, as_video

FRAME_RATE = inspect.signature(LTXPipeline.__call__).parameters["frame_rate"].default


class LTXVideoFamily(VideoFamily):
    """LTX-Video. Times are in 0..1000, latents [B, C, f, h, w] have one token per position at the stock frame rate."""

    name = "ltx_video"
    pipeline_class = LTXPipeline
    transformer_class = twinflow_class_of(LTXVideoTransformer3DModel)
    lora_target_modules = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
        "time_embed.linear",
    ]
    max_sequence_length = 128

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        """Encode prompts, and add the size of a latent position in seconds and pixels, shape [B, 3]."""
        prompt_embeds, mask, *_ = pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length or self.max_sequence_length,
        )
        spatial = pipeline.vae_spatial_compression_ratio
        scale = torch.tensor(
            [pipeline.vae_temporal_compression_ratio / FRAME_RATE, spatial, spatial], device=prompt_embeds.device
        )
        return {
            "prompt_embeds": prompt_embeds,
            "prompt_attention_mask": mask,
            "rope_interpolation_scale": scale.expand(len(prompts), 3),
        }

    def temporal_compression(self, pipeline: DiffusionPipeline) -> int:
        return pipeline.vae_temporal_compression_ratio

    def frame_rate(self, pipeline: DiffusionPipeline) -> float:
        return FRAME_RATE

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        """Encode images [B, 3, H, W] or videos [B, 3, F, H, W], with F = 1, 9, 17, ..."""
        vae = pipeline.vae
        video = as_video(pixels, self.temporal_compression(pipeline))
        encoded = vae.encode(video.to(vae.dtype)).latent_dist
        scale, center = vae.config.scaling_factor, torch.zeros_like(vae.latents_mean)
        return LatentDistribution(
            pipeline._normalize_latents(encoded.mean, vae.latents_mean, vae.latents_std, scale),
            pipeline._normalize_latents(encoded.std, center, vae.latents_std, scale),
        )

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to pixels of shape [B, 3, F, H, W]. An autoencoder that takes a time gets 0."""
        vae = pipeline.vae
        latents = pipeline._denormalize_latents(
            latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        ).to(vae.dtype)
        time = latents.new_zeros(len(latents)) if vae.config.timestep_conditioning else None
        return to_unit_range(vae.decode(latents, time, return_dict=False)[0])

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.flatten(2).transpose(1, 2)

    def unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return packed.transpose(1, 2).unflatten(2, (-1, height, width))

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            dtype = condition["prompt_embeds"].dtype
            frames, height, width = x_t.shape[2:]
            tokens = model(
                hidden_states=self.pack(x_t.to(dtype)),
                encoder_hidden_states=condition["prompt_embeds"],
                encoder_attention_mask=condition["prompt_attention_mask"],
                num_frames=frames,
                height=height,
                width=width,
                rope_interpolation_scale=condition["rope_interpolation_scale"][0],
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return self.unpack(tokens, height, width)

        return velocity
