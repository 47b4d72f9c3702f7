"""Images, each with a way of its own."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from .building import build, make, noise, pipeline, qwen_vae, vae


def sana_transformer():
    return make(
        "SanaTransformer2DModel",
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
    )


@pipeline("generator passed to step")
def sana():
    pipe = build("SanaPipeline", transformer=sana_transformer(), scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0))
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3)}
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 1.0, "use_resolution_binning": False}


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


@pipeline("timesteps and sigmas at once")
def cogview_4():
    transformer = make(
        "CogView4Transformer2DModel",
        patch_size=2,
        in_channels=4,
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
    pipe = build("CogView4Pipeline", transformer=transformer, vae=vae(4), scheduler=scheduler)
    return pipe, {"prompt_embeds": noise(1, 16, 32), "height": 32, "width": 32, "guidance_scale": 1.0}


@pipeline("the pipeline passes a target time of its own")
def hunyuan_image():
    transformer = make(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=True,
        text_embed_dim=16,
        text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
        use_meanflow=True,
    )
    prompt = {
        "prompt_embeds": noise(1, 3, 16),
        "prompt_embeds_mask": torch.ones(1, 3),
        "prompt_embeds_2": noise(1, 3, 16),
        "prompt_embeds_mask_2": torch.ones(1, 3),
    }
    pipe = build("HunyuanImagePipeline", transformer=transformer)
    return pipe, {**prompt, "height": 64, "width": 64, "distilled_guidance_scale": 3.0}


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


@pipeline("channels last")
def kandinsky_5():
    transformer = make(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(1, 1, 2),
        visual_cond=False,
        attention_type="regular",
    )
    prompt = {
        "prompt_embeds_qwen": noise(1, 3, 16),
        "prompt_embeds_clip": noise(1, 16),
        "prompt_cu_seqlens": torch.tensor([0, 3], dtype=torch.int32),
    }
    pipe = build("Kandinsky5T2IPipeline", transformer=transformer, vae=vae(4))
    pipe.resolutions = [(32, 32)]
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 1.0}


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
    pipe = build("ErnieImagePipeline", transformer=transformer)
    return pipe, {"prompt_embeds": [noise(3, 16)], "height": 64, "width": 64, "guidance_scale": 1.0}


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
