"""Stable Diffusion 3: only the number of steps is passed."""

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from .building import IMAGE, build, make, mask, noise, picture, pipeline, vae

SD3_PROMPT = {"prompt_embeds": noise(1, 3, 16), "pooled_prompt_embeds": noise(1, 16), "guidance_scale": 1.0}
SD3_SIZE = {"height": 32, "width": 32}


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


@pipeline("guidance on attention")
def sd3_pag():
    transformer = sd3_transformer()
    pipe = build("StableDiffusion3PAGPipeline", transformer=transformer, vae=vae(4), pag_applied_layers="blocks.0")
    return pipe, {**SD3_PROMPT, **SD3_SIZE, "pag_scale": 1.0}
