"""Flux and its relatives: linear sigmas and mu, packed latents."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from .building import (
    IMAGE,
    build,
    clip_text,
    flux_2_vae,
    make,
    mask,
    noise,
    picture,
    pil_picture,
    pipeline,
    t5,
    vae,
    variant,
)

FLUX = {
    "patch_size": 1,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": [4, 4, 8],
}


def flux_transformer(channels, latent_channels):
    return make("FluxTransformer2DModel", in_channels=channels, out_channels=4 * latent_channels, **FLUX)


def flux(name, channels=4, latent_channels=1, image_to_image=False, controlnet=None, **call):
    components = {"transformer": flux_transformer(channels, latent_channels), "vae": vae(latent_channels)}
    if controlnet is not None:
        components["controlnet"] = controlnet
    prompt = {"prompt_embeds": noise(1, 3, 16), "pooled_prompt_embeds": noise(1, 16), "height": 32, "width": 32}
    images = IMAGE if image_to_image else {}
    return build(name, **components), {**prompt, **images, **call}


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


@variant("FluxControlInpaintPipeline")
def flux_control_inpaint(name):
    return flux(name, channels=8, image_to_image=True, control_image=picture(), mask_image=mask())


@variant("FluxControlNetPipeline")
@variant("FluxControlNetImg2ImgPipeline")
@variant("FluxControlNetInpaintPipeline")
def flux_controlnet(name):
    call = {"control_image": picture(), "image_to_image": name != "FluxControlNetPipeline"}
    if name == "FluxControlNetInpaintPipeline":
        call["mask_image"] = mask()
    return flux(name, controlnet=make("FluxControlNetModel", in_channels=4, **FLUX), **call)


@variant("VisualClozeGenerationPipeline")
@variant("VisualClozePipeline")
def visual_cloze(name):
    components = {"transformer": flux_transformer(12, 1), "vae": vae(), "resolution": 32}
    components["text_encoder"], components["tokenizer"] = clip_text()
    components["text_encoder_2"], components["tokenizer_2"] = t5()
    call = {"image": [[pil_picture(), pil_picture()], [pil_picture(), None]], "max_sequence_length": 8}
    if name == "VisualClozePipeline":
        call |= {"upsampling_height": 32, "upsampling_width": 32}
    return build(name, **components), {"task_prompt": "a", "content_prompt": "b", **call}


def flux_2(name, **call):
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
    return build(name, transformer=transformer, vae=flux_2_vae(1)), {
        "prompt_embeds": noise(1, 3, 16),
        "height": 32,
        "width": 32,
        **call,
    }


@pipeline("use_flow_sigmas is looked at")
def flux_2_klein():
    return flux_2("Flux2KleinPipeline", guidance_scale=1.0)


@variant("Flux2Pipeline")
@variant("Flux2KleinKVPipeline")
def flux_2_others(name):
    return flux_2(name)


@variant("Flux2KleinInpaintPipeline")
def flux_2_klein_inpaint(name):
    return flux_2(name, guidance_scale=1.0, image=picture(), mask_image=mask(), strength=0.5)


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


@variant("ChromaInpaintPipeline")
def chroma_inpaint(name):
    pipe, call = chroma(name, image=picture(), mask_image=mask(), strength=0.5)
    pipe.transformer.register_to_config(guidance_embeds=False)  # the pipeline reads it, the class does not write it
    return pipe, call


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
