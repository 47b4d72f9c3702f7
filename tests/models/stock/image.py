import torch

from .spec import Stock, grid, noise, tokens

FLUX_LIKE = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
}
UNIT = {"at_noise": 1.0}
REVERSED = {"at_noise": 0.0, "at_data": 1.0}


def packed(columns: int = 3, **more):
    def inputs():
        return {
            "hidden_states": noise(2, 4, 4),
            "encoder_hidden_states": noise(2, 3, 8),
            "img_ids": grid(2, 2, columns),
            "txt_ids": torch.zeros(3, columns),
            **{name: make() for name, make in more.items()},
        }

    return inputs


def planes(channels: int = 4, size: int = 4, width: int = 8, **more):
    def inputs():
        return {
            "hidden_states": noise(2, channels, size, size),
            "encoder_hidden_states": noise(2, 3, width),
            **{name: make() for name, make in more.items()},
        }

    return inputs


def _ideogram4_inputs():
    text, image = 2, 4
    position_ids = torch.zeros(2, text + image, 3, dtype=torch.long)
    position_ids[:, :text] = torch.arange(text)[None, :, None]
    position_ids[:, text:] = 65536 + grid(2, 2, 3).long()
    return {
        "hidden_states": torch.cat([torch.zeros(2, text, 8), noise(2, image, 8)], dim=1),
        "encoder_hidden_states": torch.cat([noise(2, text, 8), torch.zeros(2, image, 8)], dim=1),
        "position_ids": position_ids,
        "segment_ids": torch.ones(2, text + image, dtype=torch.long),
        "indicator": torch.tensor([[3] * text + [2] * image] * 2),
    }


def _omnigen_inputs():
    length = 3 + 1 + 4
    return {
        "hidden_states": noise(2, 4, 4, 4),
        "input_ids": tokens(2, 3, vocabulary=20),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": torch.ones(2, length, length),
        "position_ids": torch.arange(length).repeat(2, 1),
    }


def _z_image_inputs():
    return {"x": list(noise(2, 8, 1, 4, 4)), "cap_feats": [noise(3, 8), noise(4, 8)]}


def _qwen_image21_inputs():
    return {
        "hidden_states": noise(2, 4, 8),
        "encoder_hidden_states": noise(2, 3, 8),
        "img_shapes": [[(1, 2, 2)]] * 2,
        "img_mask": torch.tensor([[False, False, False, True]] * 2),
    }


def _sizes():
    return torch.full((2, 2), 8.0)


IMAGE: dict[str, Stock] = {
    "AuraFlowTransformer2DModel": Stock(
        {
            "sample_size": 4,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_projection_dim": 16,
            "joint_attention_dim": 8,
            "pos_embed_max_size": 16,
        },
        planes(),
        **UNIT,
    ),
    "BriaFibo2Transformer2DModel": Stock(
        {
            "in_channels": 4,
            "patch_size": 2,
            "dim": 16,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "cap_feat_dim": 8,
            "injection_layer_ids": (1,),
            "perceiver_num_layers": 1,
            "min_num_gist_tokens": 4,
            "max_num_gist_tokens": 8,
            "gist_step": 2,
            "gist_min_text_len": 4,
            "gist_max_text_len": 16,
            "axes_dims": (4, 2, 2),
            "axes_lens": (32, 16, 16),
        },
        lambda: {"hidden_states": noise(2, 4, 4, 4), "encoder_hidden_states": noise(2, 2, 5, 8)},
        **UNIT,
    ),
    "BriaFiboTransformer2DModel": Stock(
        {**FLUX_LIKE, "text_encoder_dim": 4, "axes_dims_rope": [0, 4, 4]},
        packed(text_encoder_layers=lambda: [noise(2, 3, 4), noise(2, 3, 4)]),
    ),
    "BriaTransformer2DModel": Stock(
        {**FLUX_LIKE, "pooled_projection_dim": None, "axes_dims_rope": [0, 4, 4]}, packed()
    ),
    "ChromaTransformer2DModel": Stock(
        {
            **FLUX_LIKE,
            "axes_dims_rope": [4, 2, 2],
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 8,
            "approximator_layers": 1,
        },
        packed(),
        **UNIT,
    ),
    "CogView4Transformer2DModel": Stock(
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 4,
            "num_attention_heads": 2,
            "text_embed_dim": 8,
            "time_embed_dim": 8,
            "condition_dim": 4,
        },
        planes(original_size=_sizes, target_size=_sizes, crop_coords=lambda: torch.zeros(2, 2)),
    ),
    "ErnieImageTransformer2DModel": Stock(
        {
            "hidden_size": 16,
            "num_attention_heads": 1,
            "num_layers": 1,
            "ffn_hidden_size": 16,
            "in_channels": 8,
            "out_channels": 8,
            "patch_size": 1,
            "text_in_dim": 8,
            "rope_axes_dim": (8, 4, 4),
        },
        lambda: {
            "hidden_states": noise(2, 8, 2, 2),
            "text_bth": noise(2, 3, 8),
            "text_lens": torch.tensor([3, 2]),
        },
    ),
    "Flux2Transformer2DModel": Stock(
        {**FLUX_LIKE, "axes_dims_rope": [2, 2, 2, 2]}, packed(4, guidance=lambda: torch.ones(2)), **UNIT
    ),
    "Flux3Transformer2DModel": Stock(
        {
            "in_channels": 4,
            "cond_in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "timestep_channels": 8,
            "axes_dims_rope": (2, 2, 2, 2),
        },
        packed(4),
        **UNIT,
    ),
    "FluxTransformer2DModel": Stock(
        {**FLUX_LIKE, "pooled_projection_dim": 8, "axes_dims_rope": [4, 2, 2], "guidance_embeds": True},
        packed(pooled_projections=lambda: noise(2, 8), guidance=lambda: torch.ones(2)),
        **UNIT,
    ),
    "GlmImageTransformer2DModel": Stock(
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "text_embed_dim": 8,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "prior_vq_quantizer_codebook_size": 16,
        },
        planes(
            prior_token_id=lambda: tokens(2, 4, vocabulary=16),
            prior_token_drop=lambda: torch.zeros(2, 4, dtype=torch.bool),
            target_size=_sizes,
            crop_coords=lambda: torch.zeros(2, 2),
        ),
        at_noise=999.0,
        at_data=-1.0,
    ),
    "HiDreamImageTransformer2DModel": Stock(
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_channels": [8, 4],
            "text_emb_dim": 8,
            "num_routed_experts": 2,
            "num_activated_experts": 2,
            "axes_dims_rope": (4, 2, 2),
            "max_resolution": (8, 8),
            "llama_layers": (0, 1),
            "force_inference_output": True,
        },
        lambda: {
            "hidden_states": noise(2, 4, 8, 8),
            "encoder_hidden_states_t5": noise(2, 3, 8),
            "encoder_hidden_states_llama3": noise(2, 2, 3, 4),
            "pooled_embeds": noise(2, 8),
        },
        timestep="timesteps",
        not_compiled="its mixture of experts branches on values",
    ),
    "HunyuanImageTransformer2DModel": Stock(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "patch_size": (1, 1),
            "guidance_embeds": True,
            "text_embed_dim": 8,
            "rope_axes_dim": (4, 4),
        },
        planes(
            size=2,
            encoder_attention_mask=lambda: torch.ones(2, 3),
            guidance=lambda: torch.ones(2),
        ),
        checkpointing_broken=True,
    ),
    "Ideogram4Transformer2DModel": Stock(
        {
            "in_channels": 8,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "adaln_dim": 8,
            "llm_features_dim": 8,
            "mrope_section": (2, 1, 1),
        },
        _ideogram4_inputs,
        **REVERSED,
    ),
    "JoyImageEditPlusTransformer3DModel": Stock(
        {
            "patch_size": [1, 2, 2],
            "in_channels": 4,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "text_dim": 8,
            "num_layers": 1,
            "rope_dim_list": [4, 2, 2],
        },
        lambda: {
            "hidden_states": noise(2, 2, 4, 1, 2, 2),
            "encoder_hidden_states": noise(2, 3, 8),
            "shape_list": [[(1, 1, 1), (1, 1, 1)]] * 2,
        },
    ),
    "JoyImageEditTransformer3DModel": Stock(
        {
            "patch_size": [1, 2, 2],
            "in_channels": 4,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "text_dim": 8,
            "num_layers": 1,
            "rope_dim_list": [4, 2, 2],
        },
        lambda: {"hidden_states": noise(2, 4, 1, 4, 4), "encoder_hidden_states": noise(2, 3, 8)},
    ),
    "Krea2Transformer2DModel": Stock(
        {
            "in_channels": 8,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 16,
            "timestep_embed_dim": 8,
            "text_hidden_dim": 8,
            "num_text_layers": 2,
            "text_num_attention_heads": 1,
            "text_num_key_value_heads": 1,
            "text_intermediate_size": 8,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": (4, 2, 2),
        },
        lambda: {
            "hidden_states": noise(2, 4, 8),
            "encoder_hidden_states": noise(2, 3, 2, 8),
            "position_ids": torch.cat([torch.zeros(3, 3), grid(2, 2, 3)]),
            "encoder_attention_mask": torch.ones(2, 3, dtype=torch.bool),
        },
        **UNIT,
    ),
    "LongCatImageTransformer2DModel": Stock(
        {**FLUX_LIKE, "pooled_projection_dim": 8, "axes_dims_rope": [4, 2, 2]}, packed(), **UNIT
    ),
    "Lumina2Transformer2DModel": Stock(
        {
            "sample_size": 4,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 16,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 2,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (16, 16, 16),
            "cap_feat_dim": 8,
        },
        planes(encoder_attention_mask=lambda: torch.ones(2, 3, dtype=torch.bool)),
        **REVERSED,
        not_compiled="its rotary embedding reads lengths off the mask",
    ),
    "LuminaNextDiT2DModel": Stock(
        {
            "sample_size": 4,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 16,
            "num_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 8,
            "learn_sigma": False,
            "cross_attention_dim": 8,
        },
        planes(
            encoder_mask=lambda: torch.ones(2, 3),
            image_rotary_emb=lambda: torch.polar(torch.ones(8, 8, 4), noise(8, 8, 4)),
            cross_attention_kwargs=dict,
        ),
        **REVERSED,
    ),
    "NucleusMoEImageTransformer2DModel": Stock(
        {
            "patch_size": 2,
            "in_channels": 8,
            "out_channels": 2,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "axes_dims_rope": (4, 2, 2),
            "moe_enabled": False,
            "capacity_factors": [8.0],
        },
        lambda: {
            "hidden_states": noise(2, 4, 8),
            "encoder_hidden_states": noise(2, 3, 8),
            "encoder_hidden_states_mask": torch.ones(2, 3, dtype=torch.long),
            "img_shapes": [(1, 2, 2)] * 2,
        },
        **UNIT,
    ),
    "OmniGenTransformer2DModel": Stock(
        {
            "hidden_size": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 16,
            "num_layers": 1,
            "pad_token_id": 0,
            "vocab_size": 20,
            "in_channels": 4,
            "time_step_dim": 4,
            "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]},
        },
        _omnigen_inputs,
        **REVERSED,
        not_compiled="its rotary embedding reads the longest position",
    ),
    "OvisImageTransformer2DModel": Stock({**FLUX_LIKE, "axes_dims_rope": (4, 2, 2)}, packed(), **UNIT),
    "PRXTransformer2DModel": Stock(
        {
            "in_channels": 4,
            "patch_size": 2,
            "context_in_dim": 8,
            "hidden_size": 16,
            "mlp_ratio": 1.0,
            "num_heads": 2,
            "depth": 1,
            "axes_dim": [4, 4],
        },
        planes(),
        **UNIT,
    ),
    "QwenImage21Transformer2DModel": Stock(
        {
            "in_channels": 8,
            "out_channels": 8,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "context_in_dim": 8,
            "axes_dims_rope": (4, 2, 2),
        },
        _qwen_image21_inputs,
        **UNIT,
        not_compiled="it reads the layout of its tokens off a mask",
    ),
    "QwenImageTransformer2DModel": Stock(
        {
            "patch_size": 2,
            "in_channels": 8,
            "out_channels": 2,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "axes_dims_rope": (4, 2, 2),
            "zero_cond_t": True,
        },
        lambda: {
            "hidden_states": noise(2, 8, 8),
            "encoder_hidden_states": noise(2, 3, 8),
            "encoder_hidden_states_mask": torch.ones(2, 3, dtype=torch.long),
            "img_shapes": [[(1, 2, 2), (1, 2, 2)]] * 2,
        },
        **UNIT,
    ),
    "SD3Transformer2DModel": Stock(
        {
            "sample_size": 4,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 4,
        },
        planes(pooled_projections=lambda: noise(2, 8)),
    ),
    "SanaTransformer2DModel": Stock(
        {
            "patch_size": 1,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 4,
            "num_attention_heads": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 4,
            "cross_attention_dim": 8,
            "caption_channels": 8,
            "sample_size": 4,
        },
        planes(),
    ),
    "ZImageTransformer2DModel": Stock(
        {
            "in_channels": 8,
            "dim": 16,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 8,
            "axes_dims": [4, 2, 2],
            "axes_lens": [64, 16, 16],
        },
        _z_image_inputs,
        timestep="t",
        **REVERSED,
    ),
}
