"""Tiny Wan and LTX-Video pipelines of real classes."""

import diffusers
import torch
from diffusers import AutoencoderKLLTXVideo, AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from tests.families.tiny_text_encoders import t5

WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def wan_transformer():
    return diffusers.WanTransformer3DModel(**WAN).eval()


def wan_parts():
    """The components of Wan besides the transformer, which other pipelines have too."""
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return {"vae": vae.eval(), "scheduler": scheduler, **t5(UMT5Config, UMT5EncoderModel)}


def wan(**config):
    torch.manual_seed(0)
    return diffusers.WanPipeline(**wan_parts(), transformer=wan_transformer(), **config)


def ltx_video(timestep_conditioning=False):
    torch.manual_seed(0)
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=4,
        timestep_conditioning=timestep_conditioning,
        scaling_factor=0.8,
    )
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    return diffusers.LTXPipeline(
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        **t5(T5Config, T5EncoderModel),
    )
