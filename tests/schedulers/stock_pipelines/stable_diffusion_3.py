"""Stable Diffusion 3: only the number of steps is passed."""

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from .building import IMAGE, build, make, mask, noise, picture, pipeline, vae, variant

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


def sd3_controlnet(channels=4, **config):
    torch.manual_seed(0)
    config = {"num_layers": 1, "num_extra_conditioning_channels": 0, **config}
    return diffusers.SD3ControlNetModel.from_transformer(sd3_transformer(channels, layers=2), **config)


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
    pipe, call = sd3("StableDiffusion3ControlNetPipeline", layers=2, controlnet=sd3_controlnet())
    return pipe, {**call, "control_image": picture()}


@pipeline("guidance on attention")
def sd3_pag():
    pipe, call = sd3("StableDiffusion3PAGPipeline", pag_applied_layers="blocks.0")
    return pipe, {**call, "pag_scale": 1.0}


@variant("StableDiffusion3PAGImg2ImgPipeline")
def sd3_pag_img2img(name):
    pipe, call = sd3(name, image=True, pag_applied_layers="blocks.0")
    return pipe, {**call, "pag_scale": 1.0}


@variant("StableDiffusion3ControlNetInpaintingPipeline")
def sd3_controlnet_inpainting(name):
    pipe, call = sd3(name, layers=2, controlnet=sd3_controlnet(num_extra_conditioning_channels=1))
    return pipe, {**call, "control_image": picture(), "control_mask": mask()}
