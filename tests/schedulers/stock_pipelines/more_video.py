"""Video pipelines for super-resolution, control and camera motion."""

from types import SimpleNamespace

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from diffusers.models.controlnets import controlnet_cosmos
from diffusers.models.transformers import transformer_cosmos

from .building import NothingIsUnsafe, build, ltx_2_vae, make, noise, picture, pil_picture, variant, wan_vae


@variant("Kandinsky6SRPipeline")
def kandinsky_6_sr(name):
    transformer = make(
        "Kandinsky6SRTransformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_visual_blocks=1,
        axes_dims=(4, 6, 6),
        tile_sizes=((128, 128),),
    )
    kl = make(
        "Kandinsky6SRVAE",
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8, 8),
        layers_per_block=1,
    )
    pipe = build(name, transformer=transformer, vae=kl)
    return pipe, {"video": picture(64).unsqueeze(1), "resolution_scale": 2, "output_type": "pt"}


class Transforms:
    """In the place of torchvision's."""

    InterpolationMode = SimpleNamespace(NEAREST="nearest")

    class functional:
        @staticmethod
        def resize(image, size, interpolation):
            return torch.nn.functional.interpolate(image, size, mode=interpolation)


@variant("Cosmos2_5_TransferPipeline")
def cosmos_2_5_transfer(name):
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "mlp_ratio": 2,
        "text_embed_dim": 16,
        "adaln_lora_dim": 4,
        "max_size": (4, 32, 32),
        "patch_size": (1, 2, 2),
        "rope_scale": (2.0, 1.0, 1.0),
        "extra_pos_embed_type": "learnable",
        "img_context_dim_in": 32,
        "img_context_dim_out": 32,
    }
    transformer = make(
        "CosmosTransformer3DModel",
        in_channels=17,
        out_channels=16,
        num_layers=1,
        concat_padding_mask=True,
        controlnet_block_every_n=1,
        img_context_num_tokens=4,
        **config,
    )
    controlnet = make(
        "CosmosControlNetModel",
        n_controlnet_blocks=1,
        in_channels=18,
        latent_channels=18,
        model_channels=32,
        use_crossattn_projection=False,
        **config,
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    components = {"transformer": transformer, "controlnet": controlnet, "vae": wan_vae(), "scheduler": scheduler}
    pipe = build(name, **components, safety_checker=NothingIsUnsafe())
    for module in (controlnet_cosmos, transformer_cosmos):
        if not hasattr(module, "transforms"):
            module.transforms = Transforms
    call = {"controls": [noise(3, 32, 32)] * 5, "prompt_embeds": noise(1, 3, 16), "num_frames": 3}
    return pipe, {**call, "num_frames_per_chunk": 16, "height": 32, "width": 32, "guidance_scale": 1.0}


@variant("SanaWMPipeline")
def sana_wm(name):
    transformer = make(
        "SanaWMTransformer3DModel",
        in_channels=4,
        num_layers=1,
        hidden_size=32,
        num_attention_heads=2,
        linear_head_dim=16,
        softmax_every_n=1,
        chunk_plucker_post_attn_blocks=1,
        chunk_plucker_channels=12,
        caption_channels=16,
        image_size=32,
    )
    pipe = build(name, transformer=transformer, vae=ltx_2_vae())
    trajectory = np.tile(np.eye(4, dtype=np.float32), (9, 1, 1))
    call = {"c2w": trajectory, "intrinsics": np.array([32.0, 32.0, 16.0, 16.0]), "height": 32, "width": 32}
    prompt = {"prompt_embeds": noise(1, 1, 3, 16), "prompt_attention_mask": torch.ones(1, 3)}
    prompt |= {f"negative_{key}": value for key, value in prompt.items()}
    return pipe, {"image": pil_picture(), "prompt": "a", **prompt, **call, "num_frames": 9, "guidance_scale": 1.0}
