"""What the tiny pipelines are built of, and the table that they enter."""

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

PIPELINES = {}


def pipeline(contract):
    def add(function):
        PIPELINES[contract] = function
        return function

    return add


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def picture(size=32, channels=3):
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(4))


def mask(size=32):
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, 8:24, 8:24] = 1
    return mask


def build(name, scheduler=None, **components):
    cls = getattr(diffusers, name)
    empty = {key: None for key in cls._get_signature_keys(cls)[0] if key not in components}
    empty["scheduler"] = scheduler or FlowMatchEulerDiscreteScheduler()
    pipe = cls(**{**empty, **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(name, **config):
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not (parameter.abs() < 1e3).all():
                parameter.normal_()
    return model


def vae(latent_channels=1, blocks=1, **config):
    return make(
        "AutoencoderKL",
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=latent_channels,
        norm_num_groups=1,
        sample_size=32,
        shift_factor=0.06,
        scaling_factor=1.5,
        **config,
    )


def wan_vae():
    return make(
        "AutoencoderKLWan",
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def qwen_vae():
    return make(
        "AutoencoderKLQwenImage",
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


IMAGE = {"image": picture(), "strength": 0.5}
