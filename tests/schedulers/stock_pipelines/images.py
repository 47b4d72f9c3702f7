"""Image pipelines with special calls."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from .building import build, dc_vae, flux_2_vae, make, noise, picture, pipeline, qwen_vae, vae, variant

SANA = {
    "patch_size": 1,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "cross_attention_dim": 8,
    "caption_channels": 8,
    "sample_size": 32,
}


def sana(name, components=None, **call):
    transformer = make("SanaTransformer2DModel", **SANA)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe = build(name, transformer=transformer, scheduler=scheduler, **(components or {}))
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return pipe, {**prompt, "height": 32, "width": 32, "use_resolution_binning": False, **call}


@pipeline("generator passed to step")
def sana_text_to_image():
    return sana("SanaPipeline", {"vae": dc_vae()})


@variant("SanaPAGPipeline")
def sana_pag(name):
    return sana(name, {"vae": dc_vae(), "pag_applied_layers": "transformer_blocks.0"}, pag_scale=1.0)


@variant("SanaControlNetPipeline")
def sana_controlnet(name):
    components = {"controlnet": make("SanaControlNetModel", **SANA), "vae": dc_vae()}
    return sana(name, components, control_image=picture())


@pipeline("steps only, learned positions")
def aura_flow():
    transformer = make(
        "AuraFlowTransformer2DModel",
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=16,
        out_channels=4,
        pos_embed_max_size=256,
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    pipe = build("AuraFlowPipeline", transformer=transformer, vae=vae(4))
    return pipe, {**prompt, "height": 32, "width": 32}


@pipeline("reads prev_sample of the output object")
def prx():
    transformer = make(
        "PRXTransformer2DModel",
        patch_size=1,
        in_channels=4,
        context_in_dim=8,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
    )
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3, dtype=torch.bool)}
    pipe = build("PRXPipeline", transformer=transformer, vae=vae(4))
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 1.0, "use_resolution_binning": False}


def cogview_4(name, in_channels=4, **call):
    transformer = make(
        "CogView4Transformer2DModel",
        patch_size=2,
        in_channels=in_channels,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25,
        max_shift=0.75,
        base_image_seq_len=256,
        use_dynamic_shifting=True,
        time_shift_type="linear",
    )
    pipe = build(name, transformer=transformer, vae=vae(4), scheduler=scheduler)
    return pipe, {"prompt_embeds": noise(1, 16, 32), "height": 32, "width": 32, "guidance_scale": 1.0, **call}


@pipeline("timesteps and sigmas at once")
def cogview_4_text_to_image():
    return cogview_4("CogView4Pipeline")


@variant("CogView4ControlPipeline")
def cogview_4_control(name):
    return cogview_4(name, in_channels=8, control_image=picture())


@variant("GlmImagePipeline")
def glm_image(name):
    transformer = make(
        "GlmImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=128,
    )
    pipe = build(name, transformer=transformer, vae=vae(4, blocks=4))
    call = {"prompt_embeds": noise(1, 3, 16), "prior_token_ids": torch.arange(4).view(1, 4), "guidance_scale": 1.0}
    return pipe, {**call, "height": 32, "width": 32}


@pipeline("scale_model_input, isinstance checks")
def bria():
    transformer = make(
        "BriaTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    pipe = build("BriaPipeline", transformer=transformer, vae=vae(4))
    return pipe, {"prompt_embeds": noise(1, 3, 16), "height": 32, "width": 32, "guidance_scale": 1.0}


@pipeline("linear sigmas as a tensor, reads prev_sample")
def ernie_image():
    transformer = make(
        "ErnieImageTransformer2DModel",
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=4,
        out_channels=4,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    pipe = build("ErnieImagePipeline", transformer=transformer, vae=flux_2_vae(1))
    return pipe, {"prompt_embeds": [noise(3, 16)], "height": 32, "width": 32, "guidance_scale": 1.0}


@pipeline("time by the scheduler's own scale")
def krea_2():
    transformer = make(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=6400)
    pipe = build(
        "Krea2Pipeline",
        transformer=transformer,
        vae=qwen_vae(),
        scheduler=scheduler,
        text_encoder_select_layers=(0, 1, 2),
        is_distilled=True,
        patch_size=2,
    )
    prompt = {"prompt_embeds": noise(1, 3, 3, 16), "prompt_embeds_mask": torch.ones(1, 3, dtype=torch.bool)}
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 0.0}
