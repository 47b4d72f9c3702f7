"""Pipelines that do not work with the scheduler, and what happens in two of them."""

import torch
from diffusers import SCMScheduler

from .building import build, dc_vae, make, noise, picture
from .images import SANA
from .video import easy_animate

TRIG_FLOW = "its time runs on an angle, and it passes max_timesteps to set_timesteps and takes two tensors from step"
EDM = "its sigmas are those of EDM, from 80 to 0.002"
DISTILLED = "it is a distilled part of another pipeline, with sigmas and a scheduler of its own"
CANNOT = {
    "SanaSprintPipeline": TRIG_FLOW,
    "SanaSprintImg2ImgPipeline": TRIG_FLOW,
    "CosmosTextToWorldPipeline": EDM,
    "CosmosVideoToWorldPipeline": EDM,
    "Cosmos2TextToImagePipeline": EDM,
    "Cosmos2VideoToWorldPipeline": EDM,
    "HeliosPyramidPipeline": "it passes a stage to set_timesteps, of one grid over several resolutions",
    "LTXI2VLongMultiPromptPipeline": "it leaves out the last time, which only LTXEulerAncestralRFScheduler has twice",
    "LTX2DFRTemporalRefinePipeline": "it refuses all but LTXEulerAncestralRFScheduler",
    "LTX2VideoDiffusionDecodePipeline": DISTILLED,
    "SanaWMLTX2Refiner": DISTILLED,
    "EasyAnimateControlPipeline": "it calls its own encode_prompt with an argument that this does not take",
}


def sana_sprint():
    config = {**SANA, "guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    transformer = make("SanaTransformer2DModel", **config)
    pipe = build("SanaSprintPipeline", transformer=transformer, vae=dc_vae(), scheduler=SCMScheduler())
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3)}
    call = {"height": 32, "width": 32, "use_resolution_binning": False, "output_type": "latent"}
    return pipe, {**prompt, **call, "num_inference_steps": 2}


def easy_animate_control():
    return easy_animate("EasyAnimateControlPipeline", 8, control_video=picture().unsqueeze(2), num_inference_steps=1)
