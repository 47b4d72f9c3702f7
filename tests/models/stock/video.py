import torch
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

from .spec import Stock, noise

WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 1,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 8,
    "ffn_dim": 8,
    "num_layers": 1,
    "rope_max_seq_len": 16,
}
HUNYUAN = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": 8,
    "rope_axes_dim": (4, 2, 2),
}
KANDINSKY = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "time_dim": 8,
    "patch_size": (1, 2, 2),
    "model_dim": 8,
    "ff_dim": 8,
    "num_visual_blocks": 1,
    "axes_dims": (2, 2, 4),
}


def film(channels: int = 4, frames: int = 2, size: int = 4, width: int = 8, **more):
    def inputs():
        return {
            "hidden_states": noise(2, channels, frames, size, size),
            "encoder_hidden_states": noise(2, 3, width),
            **{name: make() for name, make in more.items()},
        }

    return inputs


def text_mask():
    return torch.ones(2, 3)


def _framepack_inputs():
    return {
        "hidden_states": noise(2, 4, 2, 4, 4),
        "encoder_hidden_states": noise(2, 3, 8),
        "encoder_attention_mask": text_mask(),
        "pooled_projections": noise(2, 8),
        "guidance": torch.ones(2),
        "image_embeds": noise(2, 3, 8),
        "indices_latents": torch.ones(2),
        "latents_clean": noise(2, 4, 2, 4, 4),
        "indices_latents_clean": torch.ones(2),
        "latents_history_2x": noise(2, 4, 2, 4, 4),
        "indices_latents_history_2x": torch.ones(2),
        "latents_history_4x": noise(2, 4, 8, 4, 4),
        "indices_latents_history_4x": torch.ones(8),
    }


def _helios_inputs():
    return {
        "hidden_states": noise(2, 4, 2, 16, 16),
        "encoder_hidden_states": noise(2, 3, 8),
        "indices_hidden_states": torch.ones(2, 2),
        "indices_latents_history_short": torch.ones(2, 1),
        "indices_latents_history_mid": torch.ones(2, 1),
        "indices_latents_history_long": torch.ones(2, 4),
        "latents_history_short": noise(2, 4, 1, 16, 16),
        "latents_history_mid": noise(2, 4, 1, 16, 16),
        "latents_history_long": noise(2, 4, 4, 16, 16),
    }


def _ltx2_inputs():
    return {
        "hidden_states": noise(2, 8, 4),
        "audio_hidden_states": noise(2, 3, 4),
        "encoder_hidden_states": noise(2, 3, 8),
        "audio_encoder_hidden_states": noise(2, 3, 8),
        "encoder_attention_mask": torch.ones(2, 3, dtype=torch.bool),
        "audio_encoder_attention_mask": torch.ones(2, 3, dtype=torch.bool),
        "num_frames": 2,
        "height": 2,
        "width": 2,
        "audio_num_frames": 3,
        "fps": 25.0,
    }


def _cosmos3_inputs():
    return {
        "input_ids": torch.tensor([1, 2]),
        "text_indexes": torch.tensor([0, 1]),
        "position_ids": torch.zeros(3, 3, dtype=torch.long),
        "und_len": 2,
        "sequence_length": 3,
        "vision_tokens": [noise(1, 2, 1, 1, 1)],
        "vision_token_shapes": [(1, 1, 1)],
        "vision_sequence_indexes": torch.tensor([2]),
        "vision_mse_loss_indexes": torch.tensor([2]),
        "vision_noisy_frame_indexes": [torch.tensor([0])],
    }


def _kandinsky5_inputs():
    return {
        "hidden_states": noise(2, 2, 4, 4, 4),
        "encoder_hidden_states": noise(2, 3, 8),
        "pooled_projections": noise(2, 8),
        "visual_rope_pos": [torch.arange(2), torch.arange(2), torch.arange(2)],
        "text_rope_pos": torch.arange(3),
    }


def _wan_animate_inputs():
    return {
        "hidden_states": noise(2, 12, 5, 4, 4),
        "encoder_hidden_states": noise(2, 3, 8),
        "encoder_hidden_states_image": noise(2, 3, 8),
        "pose_hidden_states": noise(2, 4, 4, 4, 4),
        "face_pixel_values": noise(2, 3, 13, 16, 16),
    }


def _wan_animate2_inputs():
    """A denoising step of the second sample of two, whose reference pass filled the cache."""
    cache = WanAnimate2KVCache(1)
    cache.get(0).store(noise(2, 8, 2, 6), noise(3, 8, 2, 6)[:2])
    return {
        "hidden_states": [noise(4, 3, 4, 4), noise(4, 3, 4, 4).flip(0)],
        "condition_latents": [noise(2, 3, 4, 4)] * 2,
        "encoder_hidden_states": [noise(3, 8), noise(4, 8)],
        "kv_cache": cache,
        "kv_cache_mode": "cached",
        "seq_len": 12,
        "reference_grid_sizes": torch.tensor([[2, 2, 2]] * 2),
        "origin_len": 5,
        "origin_area": [32, 32],
    }


VIDEO: dict[str, Stock] = {
    "AnyFlowFARTransformer3DModel": Stock(
        {**WAN, "compressed_patch_size": (1, 4, 4), "full_chunk_limit": 3},
        lambda: {
            "hidden_states": noise(2, 4, 4, 8, 8),
            "encoder_hidden_states": noise(2, 3, 8),
            "chunk_partition": [2, 2],
        },
        timestep_shape=(4,),
        native="r_timestep",
        backward_on_cpu=False,
        compiles_itself=True,
    ),
    "AnyFlowTransformer3DModel": Stock(
        {**WAN, "gate_value": 0.25},
        lambda: {"hidden_states": noise(2, 2, 4, 4, 4), "encoder_hidden_states": noise(2, 3, 8)},
        timestep_shape=(2,),
        native="r_timestep",
    ),
    "ChronoEditTransformer3DModel": Stock({**WAN, "rope_temporal_skip_len": 8}, film()),
    "Cosmos3OmniTransformer": Stock(
        {
            "head_dim": 6,
            "hidden_size": 12,
            "intermediate_size": 24,
            "latent_channel": 2,
            "latent_patch_size": 1,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "num_key_value_heads": 1,
            "patch_latent_dim": 2,
            "rope_axes_dim": [1, 1, 1],
            "vocab_size": 32,
        },
        _cosmos3_inputs,
        timestep="vision_timesteps",
        batch=1,
    ),
    "CosmosTransformer3DModel": Stock(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 1,
            "mlp_ratio": 1,
            "text_embed_dim": 8,
            "adaln_lora_dim": 4,
            "max_size": (4, 8, 8),
            "patch_size": (1, 2, 2),
            "concat_padding_mask": False,
            "extra_pos_embed_type": "learnable",
        },
        film(frames=1, fps=lambda: 30),
        at_noise=1.0,
    ),
    "EasyAnimateTransformer3DModel": Stock(
        {
            "attention_head_dim": 16,
            "num_attention_heads": 1,
            "in_channels": 4,
            "out_channels": 4,
            "mmdit_layers": 1,
            "num_layers": 1,
            "patch_size": 2,
            "sample_height": 4,
            "sample_width": 4,
            "text_embed_dim": 8,
            "time_embed_dim": 8,
        },
        film(),
    ),
    "HeliosTransformer3DModel": Stock(
        {
            **{key: value for key, value in WAN.items() if key != "rope_max_seq_len"},
            "rope_dim": (4, 4, 4),
            "has_multi_term_memory_patch": True,
            "guidance_cross_attn": True,
        },
        _helios_inputs,
    ),
    "HunyuanVideo15Transformer3DModel": Stock(
        {
            **HUNYUAN,
            "patch_size": 1,
            "patch_size_t": 1,
            "mlp_ratio": 1.0,
            "text_embed_2_dim": 8,
            "image_embed_dim": 8,
            "target_size": 16,
        },
        film(
            frames=1,
            size=2,
            encoder_attention_mask=text_mask,
            encoder_hidden_states_2=lambda: noise(2, 3, 8),
            encoder_attention_mask_2=text_mask,
            image_embeds=lambda: torch.zeros(2, 3, 8),
        ),
        not_compiled="it selects text tokens by a mask",
    ),
    "HunyuanVideoFramepackTransformer3DModel": Stock(
        {
            **HUNYUAN,
            "num_single_layers": 1,
            "patch_size": 2,
            "patch_size_t": 1,
            "guidance_embeds": True,
            "pooled_projection_dim": 8,
            "has_image_proj": True,
            "image_proj_dim": 8,
            "has_clean_x_embedder": True,
        },
        _framepack_inputs,
    ),
    "HunyuanVideoTransformer3DModel": Stock(
        {
            **HUNYUAN,
            "num_single_layers": 1,
            "patch_size": 1,
            "patch_size_t": 1,
            "guidance_embeds": True,
            "pooled_projection_dim": 8,
            "image_condition_type": "token_replace",
        },
        film(
            size=2,
            encoder_attention_mask=text_mask,
            pooled_projections=lambda: noise(2, 8),
            guidance=lambda: torch.ones(2),
        ),
    ),
    "Kandinsky5Transformer3DModel": Stock(
        {**KANDINSKY, "in_text_dim": 8, "in_text_dim2": 8, "num_text_blocks": 1}, _kandinsky5_inputs
    ),
    "Kandinsky6SRTransformer3DModel": Stock(
        {**KANDINSKY, "patch_size": (1, 1, 1), "nabla_threshold": 0.5, "nabla_window": (3, 3, 3)},
        lambda: {"hidden_states": noise(2, 1, 8, 8, 9)},
        backward_on_cpu=False,
        compiles_itself=True,
    ),
    "Kandinsky6Transformer3DModel": Stock(
        {
            **KANDINSKY,
            "in_text_dim": 8,
            "in_text_dim2": 8,
            "num_text_blocks": 1,
            "visual_cond": False,
            "in_audio_dim": 4,
            "out_audio_dim": 4,
        },
        lambda: {
            "hidden_states": noise(2, 2, 4, 4, 4),
            "encoder_hidden_states": noise(2, 3, 8),
            "pooled_projections": noise(2, 8),
            "audio_hidden_states": noise(2, 3, 4),
        },
    ),
    "LTX2VideoTransformer3DModel": Stock(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "audio_in_channels": 4,
            "audio_out_channels": 4,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 4,
            "audio_cross_attention_dim": 8,
            "num_layers": 1,
            "caption_channels": 8,
            "rope_double_precision": False,
        },
        _ltx2_inputs,
    ),
    "LTXVideoTransformer3DModel": Stock(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "num_layers": 1,
            "caption_channels": 8,
        },
        lambda: {
            "hidden_states": noise(2, 8, 4),
            "encoder_hidden_states": noise(2, 3, 8),
            "encoder_attention_mask": torch.ones(2, 3, dtype=torch.bool),
            "num_frames": 2,
            "height": 2,
            "width": 2,
        },
    ),
    "MochiTransformer3DModel": Stock(
        {
            "patch_size": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 1,
            "pooled_projection_dim": 8,
            "in_channels": 4,
            "text_embed_dim": 8,
            "time_embed_dim": 4,
            "max_sequence_length": 4,
        },
        film(encoder_attention_mask=lambda: torch.ones(2, 3, dtype=torch.bool)),
        at_noise=0.0,
        at_data=1000.0,
    ),
    "MotifVideoTransformer3DModel": Stock(
        {
            "in_channels": 9,
            "out_channels": 4,
            "num_attention_heads": 1,
            "attention_head_dim": 12,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_decoder_layers": 0,
            "mlp_ratio": 1.0,
            "patch_size": 1,
            "patch_size_t": 1,
            "text_embed_dim": 8,
            "image_embed_dim": 4,
            "rope_axes_dim": (4, 4, 4),
            "enable_text_cross_attention_dual": False,
            "enable_text_cross_attention_single": False,
        },
        film(channels=9, size=2),
    ),
    "SanaVideoTransformer3DModel": Stock(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 1,
            "attention_head_dim": 12,
            "num_layers": 1,
            "num_cross_attention_heads": 1,
            "cross_attention_head_dim": 12,
            "cross_attention_dim": 12,
            "caption_channels": 8,
            "sample_size": 4,
            "patch_size": (1, 2, 2),
            "rope_max_seq_len": 16,
        },
        film(),
    ),
    "SanaWMTransformer3DModel": Stock(
        {
            "in_channels": 4,
            "num_layers": 1,
            "hidden_size": 24,
            "num_attention_heads": 2,
            "softmax_every_n": 1,
            "linear_head_dim": 12,
            "chunk_plucker_channels": 4,
            "chunk_plucker_post_attn_blocks": 1,
            "caption_channels": 8,
            "mlp_ratio": 1.0,
        },
        lambda: {
            "hidden_states": noise(2, 4, 2, 2, 2),
            "encoder_hidden_states": noise(2, 1, 3, 8),
            "encoder_attention_mask": torch.ones(2, 3),
        },
        timestep_shape=(1, 2),
    ),
    "SkyReelsV2Transformer3DModel": Stock(dict(WAN), film()),
    "WanAnimate2Transformer3DModel": Stock(
        {
            "patch_size": (1, 2, 2),
            "text_len": 4,
            "in_dim": 6,
            "dim": 12,
            "ffn_dim": 8,
            "freq_dim": 8,
            "text_dim": 8,
            "out_dim": 4,
            "num_heads": 2,
            "num_layers": 1,
            "use_img_emb": False,
        },
        _wan_animate2_inputs,
        checkpointing_broken=True,
        backward_on_cpu=False,
        compiles_itself=True,
        not_moved="it keeps the mask of its FlexAttention on the device of the first call",
        not_compiled="its rotary embedding reads grid sizes off a tensor",
        not_offloaded="it looks up the device of a weight that is not there yet",
    ),
    "WanAnimateTransformer3DModel": Stock(
        {
            **WAN,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 8,
            "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 8,
            "face_encoder_hidden_dim": 8,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 1,
        },
        _wan_animate_inputs,
        backward_not_compiled="it views a gradient whose strides do not allow it",
    ),
    "WanTransformer3DModel": Stock(dict(WAN), film()),
    "WanVACETransformer3DModel": Stock(
        {**WAN, "vace_layers": [0], "vace_in_channels": 6},
        film(control_hidden_states=lambda: noise(2, 6, 2, 4, 4)),
    ),
}
