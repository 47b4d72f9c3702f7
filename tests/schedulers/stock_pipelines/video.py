"""Video."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from .building import (
    NothingIsUnsafe,
    build,
    clip_vision,
    make,
    mask,
    noise,
    picture,
    pil_picture,
    pipeline,
    variant,
    wan_vae,
)


def sana_video(name, **call):
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
    pipe = build(name, transformer=transformer, vae=wan_vae())
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return pipe, {**prompt, "height": 32, "width": 32, "frames": 9, "use_resolution_binning": False, **call}


@pipeline("generator passed to step, video")
def sana_text_to_video():
    return sana_video("SanaVideoPipeline")


@variant("SanaImageToVideoPipeline")
def sana_image_to_video(name):
    return sana_video(name, image=pil_picture())


WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 1,
    "rope_max_seq_len": 32,
}
VIDEO = {"video": picture(16).repeat(1, 9, 1, 1, 1)}


def wan(name, in_channels=16, transformer="WanTransformer3DModel", config=None, components=None, **call):
    transformer = make(transformer, **{**WAN, "in_channels": in_channels, **(config or {})})
    prompt = {"prompt_embeds": noise(1, 3, 32), "height": 16, "width": 16, "guidance_scale": 1.0}
    return build(name, transformer=transformer, vae=wan_vae(), **(components or {})), {**prompt, **call}


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
    return wan("WanVideoToVideoPipeline", **VIDEO, strength=0.5)


@pipeline("two transformers, changed at a boundary of time")
def wan_2_2():
    pipe, call = wan("WanPipeline", num_frames=5)
    pipe.transformer_2 = pipe.transformer
    pipe.register_to_config(boundary_ratio=0.875)
    return pipe, call


def sky_reels(name, in_channels=16, config=None, components=None, **call):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    components = {"scheduler": scheduler, **(components or {})}
    return wan(name, in_channels, "SkyReelsV2Transformer3DModel", config, components, **{"num_frames": 9, **call})


@pipeline("copies of the scheduler, whole timesteps, one a frame")
def skyreels_diffusion_forcing():
    return sky_reels("SkyReelsV2DiffusionForcingPipeline", prompt=None, addnoise_condition=0)


@variant("SkyReelsV2Pipeline")
def sky_reels_text_to_video(name):
    return sky_reels(name)


@variant("SkyReelsV2ImageToVideoPipeline")
def sky_reels_image_to_video(name):
    encoder, processor = clip_vision(4)
    components = {"image_encoder": encoder, "image_processor": processor}
    return sky_reels(name, 36, {"image_dim": 4}, components, image=pil_picture(16))


@variant("SkyReelsV2DiffusionForcingImageToVideoPipeline")
def sky_reels_forcing_image_to_video(name):
    return sky_reels(name, image=pil_picture(16), addnoise_condition=0)


@variant("SkyReelsV2DiffusionForcingVideoToVideoPipeline")
def sky_reels_forcing_video_to_video(name):
    video = [pil_picture(16)] * 9
    return sky_reels(name, video=video, num_frames=17, base_num_frames=9, overlap_history=3, addnoise_condition=0)


@variant("WanVACEPipeline")
def wan_vace(name):
    config = {"num_layers": 2, "vace_layers": [0, 1], "vace_in_channels": 96}
    return wan(name, 16, "WanVACETransformer3DModel", config, num_frames=9)


@variant("WanAnimatePipeline")
def wan_animate(name):
    encoder, processor = clip_vision(4)
    config = {
        "latent_channels": 16,
        "num_layers": 2,
        "image_dim": 4,
        "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
        "motion_encoder_size": 16,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 16,
        "face_encoder_hidden_dim": 16,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 2,
    }
    components = {"image_encoder": encoder, "image_processor": processor}
    frames = [pil_picture(16)] * 9
    call = {"image": pil_picture(16), "pose_video": frames, "face_video": frames, "segment_frame_length": 9}
    return wan(name, 36, "WanAnimateTransformer3DModel", config, components, **call)


@variant("LucyEditPipeline")
def lucy_edit(name):
    return wan(name, 32, video=[pil_picture(16)] * 9, num_frames=9)


@variant("ChronoEditPipeline")
def chrono_edit(name):
    encoder, processor = clip_vision(4)
    components = {"image_encoder": encoder, "image_processor": processor}
    call = {"image": pil_picture(16), "num_frames": 5}
    return wan(name, 36, "ChronoEditTransformer3DModel", {"image_dim": 4}, components, **call)


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
    kl = make(
        "AutoencoderKLMochi",
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    pipe = build("MochiPipeline", transformer=transformer, vae=kl, scheduler=scheduler)
    prompt = {"prompt_embeds": noise(1, 16, 16), "prompt_attention_mask": torch.ones(1, 16, dtype=torch.bool)}
    return pipe, {**prompt, "height": 16, "width": 16, "num_frames": 7, "guidance_scale": 1.0}


ANY_FLOW = {"gate_value": 0.25, "deltatime_type": "r"}


@pipeline("the pipeline reads the next sigma as its target time")
def any_flow():
    return wan("AnyFlowPipeline", 16, "AnyFlowTransformer3DModel", ANY_FLOW, num_frames=9)


@variant("AnyFlowFARPipeline")
def any_flow_far(name):
    config = {**ANY_FLOW, "full_chunk_limit": 2, "chunk_partition": (1, 2)}
    return wan(name, 16, "AnyFlowFARTransformer3DModel", config, num_frames=9)


@variant("HeliosPipeline")
def helios(name):
    config = {key: value for key, value in WAN.items() if key != "rope_max_seq_len"}
    transformer = make("HeliosTransformer3DModel", in_channels=16, rope_dim=(4, 4, 4), **config)
    prompt = {"prompt_embeds": noise(1, 3, 32), "height": 16, "width": 16, "guidance_scale": 1.0}
    return build(name, transformer=transformer, vae=wan_vae()), {**prompt, "num_frames": 9}


def easy_animate(name, in_channels=4, **call):
    transformer = make(
        "EasyAnimateTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
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
    pipe = build(name, transformer=transformer, vae=kl)
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return pipe, {**prompt, "height": 32, "width": 32, "num_frames": 1, **call}


@pipeline("init_noise_sigma, generator passed to step")
def easy_animate_text_to_video():
    return easy_animate("EasyAnimatePipeline")


@variant("EasyAnimateInpaintPipeline")
def easy_animate_inpaint(name):
    pipe, call = easy_animate(name, 9, video=picture().unsqueeze(2), mask_video=mask().unsqueeze(2) * 255)
    pipe.vae.register_to_config(cache_mag_vae=True)  # the pipeline reads it, the class does not write it
    return pipe, call


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
    pipe = build(
        "Cosmos2_5_PredictBasePipeline", transformer=transformer, vae=wan_vae(), safety_checker=NothingIsUnsafe()
    )
    return pipe, {"prompt_embeds": noise(1, 3, 16), "height": 32, "width": 32, "num_frames": 1, "guidance_scale": 1.0}
