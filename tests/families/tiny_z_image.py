"""A tiny Z-Image pipeline of real classes."""

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.families.tiny_flux import vae
from tests.families.tiny_language_models import qwen3


def z_image():
    torch.manual_seed(0)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=2,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return diffusers.ZImagePipeline(
        transformer=transformer.eval(),
        vae=vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **qwen3(),
    )
