"""Video."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from .building import build, make, noise, picture, pipeline, wan_vae


@pipeline("generator passed to step, video")
def sana_video():
    transformer = make(
        "SanaVideoTransformer3DModel",
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=8,
        sample_size=8,
        rope_max_seq_len=32,
    )
    pipe = build("SanaVideoPipeline", transformer=transformer, vae=wan_vae())
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return pipe, {**prompt, "height": 32, "width": 32, "frames": 9, "use_resolution_binning": False}


def wan(name, in_channels=16, **call):
    transformer = make(
        "WanTransformer3DModel",
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=in_channels,
        out_channels=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    prompt = {"prompt_embeds": noise(1, 3, 32), "height": 16, "width": 16, "guidance_scale": 1.0}
    return build(name, transformer=transformer, vae=wan_vae()), {**prompt, **call}


@pipeline("video, sigmas read as numbers")
def wan_text_to_video():
    return wan("WanPipeline", num_frames=9)


@pipeline("video, time per token")
def wan_expand_timesteps():
    pipe, call = wan("WanPipeline", num_frames=9)
    pipe.register_to_config(expand_timesteps=True)
    return pipe, call


@pipeline("image to video")
def wan_image_to_video():
    return wan("WanImageToVideoPipeline", in_channels=36, image=picture(16), num_frames=9)


@pipeline("add_noise by value and no begin index")
def wan_video_to_video():
    return wan("WanVideoToVideoPipeline", video=picture(16).repeat(1, 9, 1, 1, 1), strength=0.5)


@pipeline("two transformers, changed at a boundary of time")
def wan_2_2():
    pipe, call = wan("WanPipeline", num_frames=5)
    pipe.transformer_2 = pipe.transformer
    pipe.register_to_config(boundary_ratio=0.875)
    return pipe, call


@pipeline("copies of the scheduler, whole timesteps, one a frame")
def skyreels_diffusion_forcing():
    transformer = make(
        "SkyReelsV2Transformer3DModel",
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    pipe = build("SkyReelsV2DiffusionForcingPipeline", transformer=transformer, vae=wan_vae())
    prompt = {"prompt_embeds": noise(1, 3, 32), "height": 16, "width": 16, "guidance_scale": 1.0}
    return pipe, {**prompt, "prompt": None, "num_frames": 9, "addnoise_condition": 0}


@pipeline("linear sigmas without mu, video")
def hunyuan_video():
    transformer = make(
        "HunyuanVideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    prompt = {
        "prompt_embeds": noise(1, 3, 16),
        "pooled_prompt_embeds": noise(1, 8),
        "prompt_attention_mask": torch.ones(1, 3),
    }
    pipe = build("HunyuanVideoPipeline", transformer=transformer)
    return pipe, {**prompt, "height": 16, "width": 16, "num_frames": 9}


@pipeline("inverted sigmas")
def mochi():
    transformer = make(
        "MochiTransformer3DModel",
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=16,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    pipe = build("MochiPipeline", transformer=transformer, scheduler=scheduler)
    prompt = {"prompt_embeds": noise(1, 16, 16), "prompt_attention_mask": torch.ones(1, 16, dtype=torch.bool)}
    return pipe, {**prompt, "height": 16, "width": 16, "num_frames": 7, "guidance_scale": 1.0}


@pipeline("the pipeline reads the next sigma as its target time")
def any_flow():
    transformer = make(
        "AnyFlowTransformer3DModel",
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
        gate_value=0.25,
        deltatime_type="r",
    )
    pipe = build("AnyFlowPipeline", transformer=transformer, vae=wan_vae())
    prompt = {"prompt_embeds": noise(1, 3, 32), "height": 16, "width": 16, "guidance_scale": 1.0}
    return pipe, {**prompt, "num_frames": 9}


@pipeline("init_noise_sigma, generator passed to step")
def easy_animate():
    transformer = make(
        "EasyAnimateTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        sample_width=16,
        sample_height=16,
        patch_size=2,
    )
    blocks = ("SpatialDownBlock3D", "SpatialTemporalDownBlock3D"), ("SpatialUpBlock3D", "SpatialTemporalUpBlock3D")
    kl = make(
        "AutoencoderKLMagvit",
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    pipe = build("EasyAnimatePipeline", transformer=transformer, vae=kl)
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return pipe, {**prompt, "height": 32, "width": 32, "num_frames": 1}


class NothingIsUnsafe(torch.nn.Module):
    """In the place of the guardrail models, which are a package of their own."""

    dtype, device = torch.float32, torch.device("cpu")

    def check_text_safety(self, prompt):
        return True


@pipeline("sigmas as the model's time")
def cosmos_2_5():
    transformer = make(
        "CosmosTransformer3DModel",
        in_channels=17,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,
        extra_pos_embed_type="learnable",
    )
    kl = make(
        "AutoencoderKLWan",
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    pipe = build("Cosmos2_5_PredictBasePipeline", transformer=transformer, vae=kl, safety_checker=NothingIsUnsafe())
    return pipe, {"prompt_embeds": noise(1, 3, 16), "height": 32, "width": 32, "num_frames": 1, "guidance_scale": 1.0}
