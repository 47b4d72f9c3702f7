"""Qwen-Image: packed latents of a video autoencoder."""

import torch

from .building import (
    Processor,
    build,
    make,
    mask,
    noise,
    picture,
    pil_picture,
    pipeline,
    qwen_vae,
    t5,
    variant,
)

QWEN = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "axes_dims_rope": (8, 4, 4),
}


def qwen(name, transformer=None, controlnet=None, **call):
    components = {} if controlnet is None else {"controlnet": controlnet}
    transformer = make("QwenImageTransformer2DModel", **QWEN, **(transformer or {}))
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_embeds_mask": torch.ones(1, 3), "true_cfg_scale": 1.0}
    call = {**prompt, "height": 32, "width": 32, **call}
    return build(name, transformer=transformer, vae=qwen_vae(), **components), call


@pipeline("video autoencoder for images")
def qwen_image():
    return qwen("QwenImagePipeline")


@pipeline("video autoencoder for images, image to image")
def qwen_image_img2img():
    return qwen("QwenImageImg2ImgPipeline", image=picture(), strength=0.5)


@pipeline("video autoencoder for images, inpainting")
def qwen_image_inpaint():
    return qwen("QwenImageInpaintPipeline", image=picture(), mask_image=mask(), strength=0.5)


@variant("QwenImageControlNetPipeline")
def qwen_image_controlnet(name):
    return qwen(name, controlnet=make("QwenImageControlNetModel", **QWEN), control_image=picture())


@variant("QwenImageControlNetInpaintPipeline")
def qwen_image_controlnet_inpaint(name):
    controlnet = make("QwenImageControlNetModel", extra_condition_channels=4, **QWEN)
    return qwen(name, controlnet=controlnet, control_image=picture(), control_mask=mask())


@variant("QwenImageEditPipeline")
@variant("QwenImageEditPlusPipeline")
def qwen_image_edit(name):
    return qwen(name, image=pil_picture())


@variant("QwenImageEditInpaintPipeline")
def qwen_image_edit_inpaint(name):
    return qwen(name, image=pil_picture(), mask_image=mask(), strength=0.5)


@variant("QwenImageLayeredPipeline")
def qwen_image_layered(name):
    layered = {"use_additional_t_cond": True, "use_layer3d_rope": True}
    pipe, call = qwen(name, transformer=layered, image=pil_picture(), layers=2, prompt="a", output_type="pt")
    pipe.text_encoder, _ = t5()
    return pipe, {key: value for key, value in call.items() if key not in ("height", "width")}


@variant("QwenImage21Pipeline")
def qwen_image_21(name):
    transformer = make(
        "QwenImage21Transformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    kl = make(
        "AutoencoderKLQwenImage21",
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * 4,
        latents_std=[0.5] * 4,
    )
    pipe = build(name, transformer=transformer, vae=kl, processor=Processor())
    call = {"prompt_embeds": noise(1, 3, 16), "prompt_embeds_mask": torch.ones(1, 3)}
    return pipe, {**call, "height": 64, "width": 64}
