"""Hunyuan: linear sigmas without mu."""

import torch
from diffusers import ClassifierFreeGuidance
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from .building import build, hunyuan_vae, make, noise, picture, pil_picture, pipeline, variant

SIZE = {"height": 16, "width": 16}
VIDEO_PROMPT = {
    "prompt_embeds": noise(1, 3, 16),
    "pooled_prompt_embeds": noise(1, 8),
    "prompt_attention_mask": torch.ones(1, 3),
}


def hunyuan_video(name, in_channels=4, vae=None, config=None, **call):
    transformer = make(
        "HunyuanVideoTransformer3DModel",
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        **{"guidance_embeds": True, **(config or {})},
    )
    return build(name, transformer=transformer, vae=vae), {**VIDEO_PROMPT, **SIZE, "num_frames": 9, **call}


@pipeline("linear sigmas without mu, video")
def hunyuan_text_to_video():
    return hunyuan_video("HunyuanVideoPipeline", vae=hunyuan_vae())


@variant("HunyuanSkyreelsImageToVideoPipeline")
def hunyuan_sky_reels(name):
    return hunyuan_video(name, 8, hunyuan_vae(), image=picture(16), true_cfg_scale=1.0)


@variant("HunyuanVideoImageToVideoPipeline")
def hunyuan_image_to_video(name):
    config = {"image_condition_type": "token_replace", "guidance_embeds": False}
    return hunyuan_video(name, 4, hunyuan_vae(), config, image=picture(16))


def hunyuan_video_15(name, components=None, **call):
    transformer = make(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        use_meanflow=bool(components),
    )
    kl = make(
        "AutoencoderKLHunyuanVideo15",
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    prompt = {
        "prompt_embeds": noise(1, 3, 16),
        "prompt_embeds_mask": torch.ones(1, 3),
        "prompt_embeds_2": noise(1, 3, 16),
        "prompt_embeds_mask_2": torch.ones(1, 3),
    }
    guider = ClassifierFreeGuidance(guidance_scale=1.0)
    pipe = build(name, transformer=transformer, vae=kl, guider=guider, **(components or {}))
    return pipe, {**prompt, "num_frames": 9, **call}


@variant("HunyuanVideo15Pipeline")
def hunyuan_video_15_text_to_video(name):
    return hunyuan_video_15(name, **SIZE)


@variant("HunyuanVideo15ImageToVideoPipeline")
def hunyuan_video_15_image_to_video(name):
    torch.manual_seed(0)
    config = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = SiglipVisionModel(SiglipVisionConfig(image_size=30, patch_size=15, **config)).eval()
    processor = SiglipImageProcessorPil(size={"height": 30, "width": 30})
    return hunyuan_video_15(name, {"image_encoder": encoder, "feature_extractor": processor}, image=pil_picture(16))


HUNYUAN_IMAGE = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "guidance_embeds": True,
    "text_embed_dim": 16,
}
IMAGE_PROMPT = {"prompt_embeds": noise(1, 3, 16), "prompt_embeds_mask": torch.ones(1, 3)}


@pipeline("the pipeline passes a target time of its own")
def hunyuan_image():
    transformer = make(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        patch_size=(1, 1),
        text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
        use_meanflow=True,
        **HUNYUAN_IMAGE,
    )
    prompt = {**IMAGE_PROMPT, "prompt_embeds_2": noise(1, 3, 16), "prompt_embeds_mask_2": torch.ones(1, 3)}
    kl = make(
        "AutoencoderKLHunyuanImage",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        spatial_compression_ratio=4,
        sample_size=32,
        scaling_factor=0.5,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipe = build("HunyuanImagePipeline", transformer=transformer, vae=kl)
    return pipe, {**prompt, "height": 64, "width": 64, "distilled_guidance_scale": 3.0}


@variant("HunyuanImageRefinerPipeline")
def hunyuan_image_refiner(name):
    transformer = make(
        "HunyuanImageTransformer2DModel",
        in_channels=16,
        out_channels=8,
        patch_size=(1, 1, 1),
        rope_axes_dim=(2, 2, 4),
        **HUNYUAN_IMAGE,
    )
    kl = make(
        "AutoencoderKLHunyuanImageRefiner",
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipe = build(name, transformer=transformer, vae=kl)
    return pipe, {**IMAGE_PROMPT, "height": 32, "width": 32, "image": picture()}
