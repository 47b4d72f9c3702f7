"""Tiny FLUX.1, FLUX.2 and Chroma pipelines of real classes."""

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tests.families.tiny_language_models import mistral3
from tests.families.tiny_text_encoders import t5
from tests.tiny import clip_tokenizer

BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (4, 4),
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
SIZES = {
    "patch_size": 1,
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
}


def vae() -> AutoencoderKL:
    return AutoencoderKL(latent_channels=2, shift_factor=0.1, scaling_factor=1.5, **BLOCKS).eval()


def clip():
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(config).eval()}


def flux(guidance_embeds: bool):
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds, **SIZES
    )
    second = {f"{name}_2": component for name, component in t5(T5Config, T5EncoderModel).items()}
    return diffusers.FluxPipeline(
        transformer=transformer.eval(),
        vae=vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
        **clip(),
        **second,
    )


def schnell():
    return flux(guidance_embeds=False)


def dev():
    return flux(guidance_embeds=True)


def chroma():
    torch.manual_seed(0)
    transformer = diffusers.ChromaTransformer2DModel(
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=64,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **SIZES,
    )
    return diffusers.ChromaPipeline(
        transformer=transformer.eval(),
        vae=vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **t5(T5Config, T5EncoderModel),
    )


def flux2_vae():
    autoencoder = AutoencoderKLFlux2(latent_channels=2, sample_size=32, **BLOCKS)
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2.0)
    return autoencoder.eval()


def flux2():
    torch.manual_seed(0)
    transformer = diffusers.Flux2Transformer2DModel(
        axes_dims_rope=(4, 4, 4, 4), **{**SIZES, "joint_attention_dim": 48}
    )
    return diffusers.Flux2Pipeline(
        transformer=transformer.eval(),
        vae=flux2_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        **mistral3(),
    )
