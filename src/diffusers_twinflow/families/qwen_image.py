from collections.abc import Callable
from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition, VelocityFunction
from ..models import twinflow_class_of
from .encoding import LatentDistribution, to_unit_range
from .packing import PackedFamily, latent_statistics
from .prompts import pad_tokens


class QwenImageFamily(PackedFamily):
    """Qwen-Image. Times are in 0..1, latents are packed in 2 x 2 patches, and the autoencoder sees one-frame videos."""

    name = "qwen_image"
    usual_base = "Qwen/Qwen-Image"
    pipeline_class: type[DiffusionPipeline] = QwenImagePipeline
    transformer_class = twinflow_class_of(QwenImageTransformer2DModel)
    lora_target_modules = [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "img_mlp.net.0.proj",
        "img_mlp.net.2",
        "txt_mlp.net.0.proj",
        "txt_mlp.net.2",
        "img_mod.1",
        "txt_mod.1",
    ]
    max_sequence_length = 512
    guidance_off = {"true_cfg_scale": 1.0}

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        length = max_sequence_length or self.max_sequence_length
        embeds, mask = pipeline.encode_prompt(prompts, max_sequence_length=length)
        prompt_embeds, prompt_embeds_mask = pad_tokens(embeds, mask, length)
        return {"prompt_embeds": prompt_embeds, "prompt_embeds_mask": prompt_embeds_mask}

    def encode_distribution(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> LatentDistribution:
        vae = pipeline.vae
        mean, std = latent_statistics(vae, pixels.device)
        encoded = vae.encode(pixels.unsqueeze(2).to(vae.dtype)).latent_dist
        return LatentDistribution(((encoded.mean - mean) / std).squeeze(2), (encoded.std / std).squeeze(2))

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        vae = pipeline.vae
        mean, std = latent_statistics(vae, latents.device)
        latents = latents.unsqueeze(2) * std + mean
        return to_unit_range(vae.decode(latents.to(vae.dtype), return_dict=False)[0].squeeze(2))

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            height, width = x_t.shape[-2:]
            tokens = model(
                hidden_states=self.pack(x_t.to(condition["prompt_embeds"].dtype)),
                encoder_hidden_states=condition["prompt_embeds"],
                encoder_hidden_states_mask=condition["prompt_embeds_mask"],
                img_shapes=[[(1, height // 2, width // 2)]] * len(x_t),
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return self.unpack(tokens, height, width)

        return velocity
