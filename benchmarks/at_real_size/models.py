"""The published sizes of the models that are measured, and tiny ones of the same classes for a rehearsal on a CPU."""

from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin

from diffusers_twinflow.families import FAMILIES, Family

LATENT_SCALE = 8
"""Pixels along the side of a latent."""

IMAGE_AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""Autoencoder of Stable Diffusion 3 and FLUX.1, except the statistics of the latents."""


@dataclass(frozen=True)
class RealModel:
    """The published configuration of a model, and how its stock pipeline is called.

    Attributes:
        family: name of its family.
        transformer, scheduler, vae: configurations. Without a `vae` the pipeline returns only latents.
        text_tokens: length of an encoded prompt.
        guidance: arguments of the stock call for guidance.
        is_negative_prompted: whether guidance also evaluates a negative prompt.
        steps: evaluations of a stock call.
    """

    family: str
    transformer_name: str
    transformer: dict[str, Any]
    scheduler: dict[str, Any]
    latent_channels: int
    text_tokens: int
    guidance: dict[str, float]
    is_negative_prompted: bool
    steps: tuple[int, ...]
    vae: dict[str, Any] | None = None
    has_prompt_mask: bool = False
    tiny_changes: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def transformer_class(self) -> type[ModelMixin]:
        return getattr(diffusers, self.transformer_name)

    @property
    def family_object(self) -> Family:
        return FAMILIES[self.family]

    @property
    def pipeline_class(self) -> type[DiffusionPipeline]:
        return self.family_object.pipeline_class

    def tiny(self) -> "RealModel":
        """Return the same classes at tiny size."""
        changes = {name: {**getattr(self, name), **change} for name, change in self.tiny_changes.items()}
        return replace(self, **changes, latent_channels=4, text_tokens=5, steps=(4,))

    def latents(self, batch: int, resolution: int, device: torch.device) -> torch.Tensor:
        side = resolution // LATENT_SCALE
        return torch.randn(batch, self.latent_channels, side, side, device=device)

    def condition(self, batch: int, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return random prompt embeddings, in the form of the family's `encode_prompts`."""
        shape = (batch, self.text_tokens)
        condition = {"prompt_embeds": torch.randn(*shape, self.transformer["joint_attention_dim"], device=device)}
        if "pooled_projection_dim" in self.transformer:
            condition["pooled_prompt_embeds"] = torch.randn(
                batch, self.transformer["pooled_projection_dim"], device=device
            )
        condition = {name: tensor.to(dtype) for name, tensor in condition.items()}
        if self.has_prompt_mask:
            condition["prompt_embeds_mask"] = torch.ones(shape, dtype=torch.bool, device=device)
        return condition


TINY_AUTOENCODER = {"block_out_channels": (4,) * 4, "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2}
TINY_TOKENS = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16}

SD35_MEDIUM = RealModel(
    family="stable_diffusion_3",
    transformer_name="SD3Transformer2DModel",
    transformer={
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    },
    scheduler={"shift": 3.0},
    vae={**IMAGE_AUTOENCODER, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    latent_channels=16,
    text_tokens=333,
    guidance={"guidance_scale": 4.5},
    is_negative_prompted=True,
    steps=(28,),
    tiny_changes={
        "transformer": {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
        },
        "vae": TINY_AUTOENCODER,
    },
)

FLUX_DEV = RealModel(
    family="flux",
    transformer_name="FluxTransformer2DModel",
    transformer={
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        "axes_dims_rope": (16, 56, 56),
    },
    scheduler={"shift": 3.0, "use_dynamic_shifting": True},
    vae={**IMAGE_AUTOENCODER, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    latent_channels=16,
    text_tokens=512,
    guidance={"guidance_scale": 3.5},
    is_negative_prompted=False,
    steps=(28,),
    tiny_changes={
        "transformer": {
            **TINY_TOKENS,
            "in_channels": 16,
            "num_single_layers": 2,
            "pooled_projection_dim": 8,
            "axes_dims_rope": (4, 4, 8),
        },
        "vae": TINY_AUTOENCODER,
    },
)

QWEN_IMAGE = RealModel(
    family="qwen_image",
    transformer_name="QwenImageTransformer2DModel",
    transformer={
        "patch_size": 2,
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 60,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 3584,
        "axes_dims_rope": (16, 56, 56),
    },
    scheduler={
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 0.9,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    },
    latent_channels=16,
    text_tokens=512,
    guidance={"true_cfg_scale": 4.0},
    is_negative_prompted=True,
    steps=(50,),
    has_prompt_mask=True,
    tiny_changes={
        "transformer": {**TINY_TOKENS, "in_channels": 16, "out_channels": 4, "axes_dims_rope": (8, 4, 4)},
    },
)
