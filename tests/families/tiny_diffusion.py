"""Tiny Stable Diffusion, SDXL and PixArt-Sigma pipelines of real classes, with the schedulers that they ship."""

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests import tiny
from tests.families.tiny_images import kl_vae
from tests.families.tiny_text_encoders import t5

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WITHOUT_SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def ddim(**changes):
    """Deterministic, from the last timestep down to the data: the flow's Euler steps at its own timesteps."""
    options = {
        **SCHEDULE,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        "timestep_spacing": "trailing",
    }
    return DDIMScheduler(**{**options, **changes})


def clip(cls, **changes):
    tokenizer = tiny.clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **changes,
    )
    return tokenizer, cls(config).eval()


def unet(channels=(8, 8), cross_attention_dim=8, in_channels=4, **config):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=2,
        attention_head_dim=2,
        cross_attention_dim=cross_attention_dim,
        **config,
    ).eval()


def stable_diffusion(**scheduler):
    torch.manual_seed(1)
    tokenizer, text_encoder = clip(CLIPTextModel)
    return diffusers.StableDiffusionPipeline(
        unet=unet(),
        vae=kl_vae(scaling_factor=0.18),
        scheduler=ddim(**scheduler),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        **WITHOUT_SAFETY,
    )


def v_prediction():
    return stable_diffusion(prediction_type="v_prediction")


def stable_diffusion_xl():
    torch.manual_seed(1)
    tokenizer, text_encoder = clip(CLIPTextModel)
    tokenizer_2, text_encoder_2 = clip(CLIPTextModelWithProjection)
    return diffusers.StableDiffusionXLPipeline(
        unet=unet(
            cross_attention_dim=16,
            addition_embed_type="text_time",
            addition_time_embed_dim=2,
            projection_class_embeddings_input_dim=8 + 6 * 2,
            use_linear_projection=True,
        ),
        vae=kl_vae(scaling_factor=0.13),
        scheduler=ddim(),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        tokenizer_2=tokenizer_2,
        text_encoder_2=text_encoder_2,
    )


def pixart_sigma():
    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=16,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        transformer=transformer.eval(),
        vae=kl_vae(scaling_factor=0.13),
        scheduler=ddim(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        **t5(T5Config, T5EncoderModel),
    )
