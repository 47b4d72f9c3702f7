"""Pipelines that negate or convert what their model predicts, and their siblings."""

import torch

from .building import build, make, mask, noise, picture, pipeline, qwen_vae, vae, variant

Z_IMAGE = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}


def z_image(name, components=None, siglip_feat_dim=None, **call):
    transformer = make(
        "ZImageTransformer2DModel",
        in_channels=4,
        n_layers=1,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
        siglip_feat_dim=siglip_feat_dim,
        **Z_IMAGE,
    )
    with torch.no_grad():
        for name_, parameter in transformer.named_parameters():
            if name_.endswith("pad_token"):
                parameter.fill_(1)
    pipe = build(name, transformer=transformer, vae=vae(4, blocks=2), **(components or {}))
    return pipe, {"prompt_embeds": [noise(3, 16)], "height": 32, "width": 32, "guidance_scale": 0.0, **call}


@pipeline("prediction negated, reversed time")
def z_image_text_to_image():
    return z_image("ZImagePipeline")


@pipeline("prediction negated, image to image")
def z_image_img2img():
    return z_image("ZImageImg2ImgPipeline", image=picture(), strength=0.5)


@pipeline("prediction negated, inpainting")
def z_image_inpaint():
    return z_image("ZImageInpaintPipeline", image=picture(), mask_image=mask(), strength=1.0)


def z_image_control(channels):
    places = {"control_layers_places": [0], "control_refiner_layers_places": [0], "add_control_noise_refiner": None}
    return {"controlnet": make("ZImageControlNetModel", control_in_dim=channels, **places, **Z_IMAGE)}


@variant("ZImageControlNetPipeline")
def z_image_controlnet(name):
    return z_image(name, z_image_control(4), control_image=picture())


@variant("ZImageControlNetInpaintPipeline")
def z_image_controlnet_inpaint(name):
    images = {"image": picture(), "mask_image": mask(), "control_image": picture()}
    return z_image(name, z_image_control(9), **images)


@variant("ZImageOmniPipeline")
def z_image_omni(name):
    return z_image(name, siglip_feat_dim=16, prompt_embeds=[[noise(3, 16)]])


@variant("LuminaPipeline")
def lumina(name):
    transformer = make(
        "LuminaNextDiT2DModel",
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=8,
    )
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return build(name, transformer=transformer, vae=vae(4)), {**prompt, "height": 32, "width": 32}


@pipeline("prediction negated, reversed time of the scheduler's own scale")
def lumina_2():
    transformer = make(
        "Lumina2Transformer2DModel",
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=8,
    )
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3, dtype=torch.bool)}
    pipe = build("Lumina2Pipeline", transformer=transformer, vae=vae(4))
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 1.0}


@pipeline("prediction negated, constant mu")
def hidream():
    transformer = make(
        "HiDreamImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    ).eval()
    prompt = {
        "prompt_embeds_t5": noise(1, 3, 32),
        "prompt_embeds_llama3": noise(2, 1, 3, 16),
        "pooled_prompt_embeds": noise(1, 64),
    }
    pipe = build("HiDreamImagePipeline", transformer=transformer, vae=vae(4))
    pipe.default_sample_size = 32 // pipe.vae_scale_factor  # what it is asked for is resized to this area
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 0.0}


@pipeline("prediction negated, packed")
def nucleus_moe():
    transformer = make(
        "NucleusMoEImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        moe_enabled=False,
        capacity_factors=[8.0],
    )
    pipe = build("NucleusMoEImagePipeline", transformer=transformer, vae=qwen_vae())
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_embeds_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return pipe, {**prompt, "height": 32, "width": 32}


@pipeline("predicts the clean picture, in pixels")
def prx_pixel():
    transformer = make(
        "PRXTransformer2DModel",
        patch_size=4,
        in_channels=3,
        context_in_dim=8,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
    )
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3, dtype=torch.bool)}
    pipe = build(
        "PRXPixelPipeline", transformer=transformer, default_sample_size=32, prompt_max_tokens=8, noise_scale=1.0
    )
    call = {**prompt, "height": 32, "width": 32, "guidance_scale": 1.0, "use_resolution_binning": False}
    return pipe, call
