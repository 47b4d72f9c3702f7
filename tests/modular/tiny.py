"""Tiny modular pipelines of real classes, with their text encoders."""

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.families.kit import fill_zeros
from tests.families.tiny_language_models import qwen3
from tests.families.tiny_qwen import vae
from tests.families.tiny_text_encoders import t5_tokenizer


def anima():
    """Has a text conditioner between its text encoder and its transformer, and a guider."""
    torch.manual_seed(0)
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=1,
        text_embed_dim=8,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        concat_padding_mask=False,
        extra_pos_embed_type=None,
    )
    fill_zeros(transformer)
    tokenizer = t5_tokenizer()
    conditioner = diffusers.AnimaTextConditioner(
        source_dim=16,
        target_dim=8,
        model_dim=8,
        num_layers=1,
        num_attention_heads=1,
        target_vocab_size=len(tokenizer),
    )
    return assembled(
        diffusers.AnimaModularPipeline,
        transformer=transformer.eval(),
        text_conditioner=conditioner.eval(),
        t5_tokenizer=tokenizer,
        vae=vae(stages=3, base_dim=2),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **qwen3(),
    )


def assembled(cls, **components):
    """A modular pipeline with these components, and a guider at its usual scale."""
    pipeline = cls()
    pipeline.register_components(**components)
    return pipeline
