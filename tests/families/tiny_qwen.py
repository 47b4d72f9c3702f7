"""Tiny Qwen-Image pipelines of real classes."""

import diffusers
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler

from tests.families.tiny_language_models import qwen2_5_vl, qwen_processor

SCHEDULER = {"use_dynamic_shifting": True, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02}


def transformer(**config):
    """A transformer whose prompts have weight beside the words of the pipeline's own around them."""
    model = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        **config,
    )
    for block in model.transformer_blocks:
        block.attn.add_v_proj.weight.data.mul_(8)
    return model.eval()


def vae(stages: int, base_dim: int = 3):
    return AutoencoderKLQwenImage(
        base_dim=base_dim,
        z_dim=4,
        dim_mult=[1] * (stages + 1),
        num_res_blocks=1,
        temperal_downsample=[False] * stages,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 1.5, 2.0, 1.0],
    ).eval()


def qwen_image():
    torch.manual_seed(0)
    return diffusers.QwenImagePipeline(
        transformer=transformer(),
        vae=vae(stages=1),
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        **qwen2_5_vl(),
    )


def qwen_image_edit(pipeline_class=diffusers.QwenImageEditPipeline):
    torch.manual_seed(0)
    language = qwen2_5_vl()
    return pipeline_class(
        transformer=transformer(zero_cond_t=True),
        vae=vae(stages=4, base_dim=2),
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        processor=qwen_processor(language["tokenizer"]),
        **language,
    )


def qwen_image_edit_plus():
    return qwen_image_edit(diffusers.QwenImageEditPlusPipeline)
