"""Stock flow-matching pipelines with tiny real components, prompts given as embeddings, so that each runs in no time.

`PIPELINES` holds, by a name that says what is special about the way the pipeline talks to its scheduler, a function that
returns the pipeline with its stock scheduler and the arguments of a call.
"""

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

PIPELINES = {}


def pipeline(contract):
    def add(function):
        PIPELINES[contract] = function
        return function

    return add


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def picture(size=32, channels=3):
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(4))


def mask(size=32):
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, 8:24, 8:24] = 1
    return mask


def build(name, scheduler=None, **components):
    cls = getattr(diffusers, name)
    empty = {key: None for key in cls._get_signature_keys(cls)[0] if key not in components}
    empty["scheduler"] = scheduler or FlowMatchEulerDiscreteScheduler()
    pipe = cls(**{**empty, **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(name, **config):
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not (parameter.abs() < 1e3).all():
                parameter.normal_()
    return model


def vae(latent_channels=1, blocks=1, **config):
    return make(
        "AutoencoderKL",
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=latent_channels,
        norm_num_groups=1,
        sample_size=32,
        shift_factor=0.06,
        scaling_factor=1.5,
        **config,
    )


def wan_vae():
    return make(
        "AutoencoderKLWan",
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


# Stable Diffusion 3: N only


def sd3_transformer(channels=4, layers=1):
    return make(
        "SD3Transformer2DModel",
        sample_size=32,
        patch_size=1,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
    )


SD3_PROMPT = {"prompt_embeds": noise(1, 3, 16), "pooled_prompt_embeds": noise(1, 16), "guidance_scale": 1.0}
SD3_SIZE = {"height": 32, "width": 32}
IMAGE = {"image": picture(), "strength": 0.5}


def sd3(name, image=False, channels=4, layers=1, **components):
    pipe = build(name, transformer=sd3_transformer(channels, layers), vae=vae(channels), **components)
    return pipe, {**SD3_PROMPT, **(IMAGE if image else SD3_SIZE)}


@pipeline("steps only")
def stable_diffusion_3():
    return sd3("StableDiffusion3Pipeline")


@pipeline("steps and mu")
def stable_diffusion_3_dynamic_shifting():
    pipe, call = sd3("StableDiffusion3Pipeline", scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    return pipe, call


@pipeline("begin index and scale_noise")
def stable_diffusion_3_img2img():
    return sd3("StableDiffusion3Img2ImgPipeline", image=True)


@pipeline("noise mixed in again after every step")
def stable_diffusion_3_inpaint():
    pipe, call = sd3("StableDiffusion3InpaintPipeline", image=True, channels=16)
    return pipe, {**call, **SD3_SIZE, "mask_image": mask()}


@pipeline("controlnet")
def stable_diffusion_3_controlnet():
    torch.manual_seed(0)
    controlnet = diffusers.SD3ControlNetModel.from_transformer(
        sd3_transformer(layers=2), num_layers=1, num_extra_conditioning_channels=0
    )
    pipe, call = sd3("StableDiffusion3ControlNetPipeline", layers=2, controlnet=controlnet)
    return pipe, {**call, "control_image": picture()}


# Flux: linear sigmas and mu, packed latents


def flux(name, channels=4, latent_channels=1, image_to_image=False, **call):
    transformer = make(
        "FluxTransformer2DModel",
        patch_size=1,
        in_channels=channels,
        out_channels=4 * latent_channels,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "pooled_prompt_embeds": noise(1, 16), "height": 32, "width": 32}
    images = IMAGE if image_to_image else {}
    return build(name, transformer=transformer, vae=vae(latent_channels)), {**prompt, **images, **call}


@pipeline("linear sigmas and mu")
def flux_text_to_image():
    return flux("FluxPipeline")


@pipeline("linear sigmas and mu, dynamic shifting")
def flux_dynamic_shifting():
    pipe, call = flux("FluxPipeline")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return pipe, call


@pipeline("packed image to image")
def flux_img2img():
    return flux("FluxImg2ImgPipeline", image_to_image=True)


@pipeline("packed inpainting")
def flux_inpaint():
    return flux("FluxInpaintPipeline", channels=8, latent_channels=2, image_to_image=True, mask_image=mask())


@pipeline("inpainting by channels")
def flux_fill():
    return flux("FluxFillPipeline", channels=20, latent_channels=2, image=picture(), mask_image=mask())


@pipeline("control by channels")
def flux_control():
    return flux("FluxControlPipeline", channels=8, control_image=picture())


@pipeline("control and image to image")
def flux_control_img2img():
    return flux("FluxControlImg2ImgPipeline", channels=8, image_to_image=True, control_image=picture())


@pipeline("reference tokens")
def flux_kontext():
    return flux("FluxKontextPipeline", image=picture(), max_area=32 * 32, _auto_resize=False)


@pipeline("reference tokens and inpainting")
def flux_kontext_inpaint():
    return flux(
        "FluxKontextInpaintPipeline", image_to_image=True, mask_image=mask(), max_area=32 * 32, _auto_resize=False
    )


@pipeline("use_flow_sigmas is looked at")
def flux_2_klein():
    transformer = make(
        "Flux2Transformer2DModel",
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    )
    kl = make(
        "AutoencoderKLFlux2",
        block_out_channels=(4,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
    )
    pipe = build("Flux2KleinPipeline", transformer=transformer, vae=kl)
    return pipe, {"prompt_embeds": noise(1, 3, 16), "height": 32, "width": 32, "guidance_scale": 1.0}


def chroma(name, **call):
    transformer = make(
        "ChromaTransformer2DModel",
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=[4, 4, 8],
        approximator_hidden_dim=16,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return build(name, transformer=transformer, vae=vae()), {**prompt, "height": 32, "width": 32, **call}


@pipeline("attention mask")
def chroma_text_to_image():
    return chroma("ChromaPipeline")


@pipeline("attention mask and image to image")
def chroma_img2img():
    return chroma("ChromaImg2ImgPipeline", image=picture(), strength=0.5)


@pipeline("guidance in two passes of the transformer")
def ovis():
    transformer = make(
        "OvisImageTransformer2DModel",
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    pipe = build("OvisImagePipeline", transformer=transformer, vae=vae())
    prompts = {"prompt_embeds": noise(1, 3, 16), "negative_prompt_embeds": noise(1, 3, 16) / 2}
    return pipe, {**prompts, "height": 32, "width": 32, "guidance_scale": 2.0, "negative_prompt": None}


# Qwen-Image, Z-Image, Lumina: linear sigmas and mu; the last two negate the prediction


def qwen(name, **call):
    transformer = make(
        "QwenImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    kl = make(
        "AutoencoderKLQwenImage",
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_embeds_mask": torch.ones(1, 3), "true_cfg_scale": 1.0}
    return build(name, transformer=transformer, vae=kl), {**prompt, "height": 32, "width": 32, **call}


@pipeline("video autoencoder for images")
def qwen_image():
    return qwen("QwenImagePipeline")


@pipeline("video autoencoder for images, image to image")
def qwen_image_img2img():
    return qwen("QwenImageImg2ImgPipeline", image=picture(), strength=0.5)


@pipeline("video autoencoder for images, inpainting")
def qwen_image_inpaint():
    return qwen("QwenImageInpaintPipeline", image=picture(), mask_image=mask(), strength=0.5)


def z_image(name, **call):
    transformer = make(
        "ZImageTransformer2DModel",
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        transformer.x_pad_token.fill_(1)
        transformer.cap_pad_token.fill_(1)
    pipe = build(name, transformer=transformer, vae=vae(4, blocks=2))
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
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 0.0}


# Sana, AuraFlow, PRX: N only, some pass the generator on


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


# Two lists at once


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


# Video


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


def ltx(name, **call):
    transformer = make(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    kl = make(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    pipe = build(name, transformer=transformer, vae=kl)
    return pipe, {**prompt, "height": 32, "width": 32, "num_frames": 9, **call}


@pipeline("video in packed tokens")
def ltx_text_to_video():
    return ltx("LTXPipeline")


@pipeline("a frame kept out of step")
def ltx_image_to_video():
    return ltx("LTXImageToVideoPipeline", image=picture())


@pipeline("per_token_timesteps, prediction negated")
def ltx_condition():
    return ltx("LTXConditionPipeline", image=picture())


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
