"""Kandinsky: channels last."""

import torch

from .building import build, hunyuan_vae, make, noise, picture, pipeline, vae, variant


def kandinsky_5(name, kl, channels=4, visual_cond=False, **call):
    transformer = make(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=channels,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=channels,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(1, 1, 2),
        visual_cond=visual_cond,
        attention_type="regular",
    )
    prompt = {
        "prompt_embeds_qwen": noise(1, 3, 16),
        "prompt_embeds_clip": noise(1, 16),
        "prompt_cu_seqlens": torch.tensor([0, 3], dtype=torch.int32),
    }
    pipe = build(name, transformer=transformer, vae=kl)
    pipe.resolutions = [(32, 32)]
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 1.0, **call}


@pipeline("channels last")
def kandinsky_5_text_to_image():
    return kandinsky_5("Kandinsky5T2IPipeline", vae(4))


@variant("Kandinsky5I2IPipeline")
def kandinsky_5_image_to_image(name):
    return kandinsky_5(name, vae(4, blocks=4), visual_cond=True, image=picture())


@variant("Kandinsky5T2VPipeline")
def kandinsky_5_text_to_video(name):
    return kandinsky_5(name, hunyuan_vae(), num_frames=5)


@variant("Kandinsky5I2VPipeline")
def kandinsky_5_image_to_video(name):
    return kandinsky_5(name, hunyuan_vae(), visual_cond=True, num_frames=17, image=picture())
