"""UNets and transformers of diffusion bases, which are trained through the bridge."""

import torch

from .spec import Stock, noise

UNET = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (4,),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 4,
    "cross_attention_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}


def unet_inputs():
    return {"sample": noise(2, 4, 4, 4), "encoder_hidden_states": noise(2, 3, 8)}


DIFFUSION: dict[str, Stock] = {
    "PixArtTransformer2DModel": Stock(
        {
            "sample_size": 4,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "cross_attention_dim": 16,
            "caption_channels": 8,
            "use_additional_conditions": False,
        },
        lambda: {
            "hidden_states": noise(2, 4, 4, 4),
            "encoder_hidden_states": noise(2, 3, 8),
            "encoder_attention_mask": torch.ones(2, 3),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "DreamLiteUNetModel": Stock(UNET, unet_inputs),
    "UNet2DConditionModel": Stock(UNET, unet_inputs),
}
