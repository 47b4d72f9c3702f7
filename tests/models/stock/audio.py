import torch

from .spec import Stock, noise

AUDIO: dict[str, Stock] = {
    "AceStepTransformer1DModel": Stock(
        {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "in_channels": 12,
            "audio_acoustic_hidden_dim": 4,
            "patch_size": 2,
            "sliding_window": 4,
        },
        lambda: {
            "hidden_states": noise(2, 4, 4),
            "encoder_hidden_states": noise(2, 3, 16),
            "context_latents": noise(2, 4, 8),
        },
        at_noise=1.0,
        native="timestep_r",
        not_compiled_by="2.11",
    ),
    "LongCatAudioDiTTransformer": Stock(
        {"dit_dim": 16, "dit_depth": 1, "dit_heads": 2, "dit_text_dim": 8, "latent_dim": 4, "text_conv": False},
        lambda: {
            "hidden_states": noise(2, 4, 4),
            "encoder_hidden_states": noise(2, 3, 8),
            "encoder_attention_mask": torch.ones(2, 3, dtype=torch.bool),
            "attention_mask": torch.ones(2, 4, dtype=torch.bool),
        },
        at_noise=0.0,
        at_data=1.0,
    ),
    "MiniMaxMusic3Transformer1DModel": Stock(
        {
            "in_channels": 4,
            "condition_dim": 8,
            "num_layers": 1,
            "num_attention_heads": 1,
            "attention_head_dim": 8,
            "ff_inner_dim": 8,
            "rotary_dim": 4,
            "fourier_embedding_dim": 8,
        },
        lambda: {"hidden_states": noise(2, 4, 5), "encoder_hidden_states": noise(2, 5, 8)},
        at_noise=0.0,
        at_data=1.0,
    ),
    "StableAudio3DiTModel": Stock(
        {
            "io_channels": 4,
            "patch_size": 1,
            "embed_dim": 16,
            "depth": 1,
            "num_heads": 2,
            "cond_token_dim": 8,
            "global_cond_dim": 4,
            "local_add_cond_dim": 5,
            "timestep_features_dim": 8,
            "ff_mult": 1,
            "num_memory_tokens": 1,
            "use_differential_attention": False,
        },
        lambda: {
            "hidden_states": noise(2, 4, 5),
            "encoder_hidden_states": noise(2, 3, 8),
            "global_hidden_states": noise(2, 4),
        },
        at_noise=1.0,
        device_tolerance=1e-2,  # the sine of 60,000 times t: an ulp of the frequency moves it by 5e-3
    ),
}
