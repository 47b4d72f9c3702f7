"""Tiny modular pipelines of real classes, with their text encoders."""

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.families.kit import fill_zeros
from tests.families.tiny_flux import flux2_vae
from tests.families.tiny_language_models import SIZES, VISION_TOKENS, qwen3, qwen_tokenizer
from tests.families.tiny_qwen import vae
from tests.families.tiny_text_encoders import t5_tokenizer
from tests.modular.building import ANIMA


def anima():
    """Has a text conditioner between its text encoder and its transformer, and a guider."""
    torch.manual_seed(0)
    transformer = diffusers.CosmosTransformer3DModel(**ANIMA, num_layers=2)
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


def flux3():
    """Reads one prompt per call, from 33 layers of its text encoder, after a chat template."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    ids = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            tokenizer.convert_tokens_to_ids(VISION_TOKENS),
        )
    )
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "head_dim": 8,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            **SIZES | {"hidden_size": 8, "num_hidden_layers": 32},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 8,
            "deepstack_visual_indexes": [0],
        },
        **ids,
    )
    transformer = diffusers.Flux3Transformer2DModel(
        in_channels=8,
        cond_in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        timestep_channels=8,
        axes_dims_rope=(2, 2, 2, 2),
    )
    fill_zeros(transformer)
    return assembled(
        diffusers.Flux3ModularPipeline,
        transformer=transformer.eval(),
        vae=flux2_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=Qwen3VLForConditionalGeneration(config).eval(),
        tokenizer=TextProcessor(tokenizer),
    )


class TextProcessor:
    """A tokenizer in the place of a processor, which has it as an attribute. Processors of videos need torchvision."""

    def __init__(self, tokenizer):
        self.tokenizer, self.apply_chat_template = tokenizer, tokenizer.apply_chat_template


def assembled(cls, **components):
    """A modular pipeline with these components, and a guider at its usual scale."""
    pipeline = cls()
    pipeline.register_components(**components)
    return pipeline
