"""Audio."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from transformers import Qwen3Config, Qwen3Model, UMT5Config, UMT5EncoderModel

from tests import tiny

from .building import build, make, noise, pipeline, variant


def stable_audio_3(name, local_add_cond_dim=5, **call):
    transformer = make(
        "StableAudio3DiTModel",
        io_channels=8,
        patch_size=1,
        embed_dim=32,
        depth=1,
        num_heads=4,
        cond_token_dim=16,
        global_cond_dim=16,
        local_add_cond_dim=local_add_cond_dim,
        timestep_features_dim=16,
        ff_mult=2,
        num_memory_tokens=3,
        use_differential_attention=False,
    )
    kl = make(
        "AutoencoderSAME",
        audio_channels=2,
        patch_size=2,
        encoder_channels=8,
        encoder_c_mults=(2,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=8,
        use_differential_attention=False,
        dim_heads=4,
        ff_mult=2,
        sampling_rate=16,
    )
    torch.manual_seed(0)
    pipe = build(
        name,
        transformer=transformer,
        vae=kl,
        duration_embedder=StableAudio3DurationEmbedder(output_dim=16, fourier_dim=16),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "encoder_attention_mask": torch.ones(1, 3, dtype=torch.long)}
    return pipe, {**prompt, "duration": 1.0, **call}


@pipeline("audio, times from 0 to 1, generator passed to step")
def stable_audio_3_text_to_audio():
    return stable_audio_3("StableAudio3Pipeline")


@variant("StableAudio3AudioToAudioPipeline")
def stable_audio_3_audio_to_audio(name):
    return stable_audio_3(name, audio=noise(1, 2, 16))


@variant("StableAudio3InpaintPipeline")
def stable_audio_3_inpaint(name):
    return stable_audio_3(name, 9, audio=noise(1, 2, 16), mask_start_seconds=0.25, mask_end_seconds=0.75)


ACE_STEP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 16,
}


@variant("AceStepPipeline")
def ace_step(name):
    tokenizer = tiny.clip_tokenizer()
    torch.manual_seed(0)
    config = {**ACE_STEP, "num_hidden_layers": 1, "vocab_size": len(tokenizer), "pad_token_id": 0}
    config.pop("sliding_window")
    text_encoder = Qwen3Model(Qwen3Config(**config)).eval()
    layers = {"num_lyric_encoder_hidden_layers": 1, "num_timbre_encoder_hidden_layers": 1}
    torch.manual_seed(0)
    condition_encoder = AceStepConditionEncoder(text_hidden_dim=32, timbre_hidden_dim=8, **layers, **ACE_STEP).eval()
    pipe = build(
        name,
        transformer=make(
            "AceStepTransformer1DModel",
            num_hidden_layers=1,
            in_channels=24,
            audio_acoustic_hidden_dim=8,
            patch_size=2,
            **ACE_STEP,
        ),
        condition_encoder=condition_encoder,
        vae=make(
            "AutoencoderOobleck",
            encoder_hidden_size=6,
            downsampling_ratios=[1, 2],
            decoder_channels=3,
            decoder_input_channels=8,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=4,
        ),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )
    return pipe, {
        "prompt": "rain",
        "lyrics": "la",
        "audio_duration": 0.4,
        "max_text_length": 16,
        "guidance_scale": 1.0,
    }


@pipeline("audio, inverted sigmas, scheduler replaced by the constructor")
def longcat_audio():
    tokenizer = tiny.clip_tokenizer()
    torch.manual_seed(0)
    encoder = UMT5EncoderModel(
        UMT5Config(d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16, vocab_size=len(tokenizer))
    )
    transformer = make(
        "LongCatAudioDiTTransformer",
        dit_dim=32,
        dit_depth=1,
        dit_heads=2,
        dit_text_dim=16,
        latent_dim=8,
        text_conv=False,
    )
    kl = make(
        "LongCatAudioDiTVae",
        in_channels=1,
        channels=16,
        c_mults=[1, 2],
        strides=[2],
        latent_dim=8,
        encoder_latent_dim=16,
        downsampling_ratio=2,
        sample_rate=24000,
    )
    pipe = build(
        "LongCatAudioDiTPipeline",
        transformer=transformer,
        vae=kl,
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )
    return pipe, {"prompt": ["rain"], "audio_duration_s": 0.01, "guidance_scale": 1.0}
