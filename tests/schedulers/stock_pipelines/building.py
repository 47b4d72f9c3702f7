"""What the tiny pipelines are built of, and the table that they enter."""

import functools

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from tests import tiny

PIPELINES = {}
VARIANTS = {}


def pipeline(contract):
    def add(function):
        PIPELINES[contract] = function
        return function

    return add


def variant(name):
    """Enter a pipeline class that talks to its scheduler as one of `PIPELINES` does; its builder is called with `name`."""

    def add(function):
        VARIANTS[name] = functools.partial(function, name)
        return function

    return add


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def picture(size=32, channels=3):
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(4))


def pil_picture(size=32, mode="RGB"):
    return Image.new(mode, (size, size), "red")


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


class NothingIsUnsafe(torch.nn.Module):
    """In the place of the guardrail models, which are a package of their own."""

    dtype, device = torch.float32, torch.device("cpu")

    def check_text_safety(self, prompt):
        return True

    def check_video_safety(self, video):
        return video


class Processor:
    """In the place of one of pictures and texts, which is not asked where a prompt is given as embeddings."""

    image_processor, tokenizer = None, tiny.clip_tokenizer()

    def apply_chat_template(self, messages, **kwargs):
        return [[0]]


def t5(size=16):
    """A text encoder and its tokenizer."""
    tokenizer = tiny.clip_tokenizer()
    torch.manual_seed(0)
    config = {"d_model": size, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "vocab_size": len(tokenizer)}
    return T5EncoderModel(T5Config(**config)).eval(), tokenizer


def clip_text(size=16):
    """A text encoder and its tokenizer."""
    tokenizer = tiny.clip_tokenizer()
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config).eval(), tokenizer


def clip_vision(size=16):
    """An image encoder and its processor."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=size,
        projection_dim=size,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=4,
        patch_size=2,
    )
    processor = CLIPImageProcessorPil(crop_size=4, size=4)
    return CLIPVisionModelWithProjection(config).eval(), processor


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


def ltx_2_vae():
    return make(
        "AutoencoderKLLTX2Video",
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
    )


def flux_2_vae(latent_channels):
    return make(
        "AutoencoderKLFlux2",
        block_out_channels=(4,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=1,
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


def dc_vae():
    return make(
        "AutoencoderDC",
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )


def hunyuan_vae(latent_channels=4):
    return make(
        "AutoencoderKLHunyuanVideo",
        latent_channels=latent_channels,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
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
