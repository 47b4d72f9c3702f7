"""More of `tiny_pipelines.PIPELINES`: audio, times from 0 to 1, predictions that the pipeline converts."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from tiny_pipelines import PIPELINES, SD3_PROMPT, SD3_SIZE, build, make, noise, pipeline, sd3_transformer, vae, wan
from transformers import UMT5Config, UMT5EncoderModel

import tiny

__all__ = ["PIPELINES"]


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


@pipeline("linear sigmas as a tensor, reads prev_sample")
def ernie_image():
    transformer = make(
        "ErnieImageTransformer2DModel",
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=4,
        out_channels=4,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    pipe = build("ErnieImagePipeline", transformer=transformer)
    return pipe, {"prompt_embeds": [noise(3, 16)], "height": 64, "width": 64, "guidance_scale": 1.0}


@pipeline("time by the scheduler's own scale")
def krea_2():
    transformer = make(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=6400)
    pipe = build(
        "Krea2Pipeline",
        transformer=transformer,
        vae=qwen_vae(),
        scheduler=scheduler,
        text_encoder_select_layers=(0, 1, 2),
        is_distilled=True,
        patch_size=2,
    )
    prompt = {"prompt_embeds": noise(1, 3, 3, 16), "prompt_embeds_mask": torch.ones(1, 3, dtype=torch.bool)}
    return pipe, {**prompt, "height": 32, "width": 32, "guidance_scale": 0.0}


@pipeline("prediction negated, packed")
def nucleus_moe():
    transformer = make(
        "NucleusMoEImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        moe_enabled=False,
        capacity_factors=[8.0],
    )
    pipe = build("NucleusMoEImagePipeline", transformer=transformer, vae=qwen_vae())
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_embeds_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    return pipe, {**prompt, "height": 32, "width": 32}


@pipeline("predicts the clean picture, in pixels")
def prx_pixel():
    transformer = make(
        "PRXTransformer2DModel",
        patch_size=4,
        in_channels=3,
        context_in_dim=8,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
    )
    prompt = {"prompt_embeds": noise(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3, dtype=torch.bool)}
    pipe = build(
        "PRXPixelPipeline", transformer=transformer, default_sample_size=32, prompt_max_tokens=8, noise_scale=1.0
    )
    call = {**prompt, "height": 32, "width": 32, "guidance_scale": 1.0, "use_resolution_binning": False}
    return pipe, {**call, "output_type": "pt"}


@pipeline("audio, times from 0 to 1, generator passed to step")
def stable_audio_3():
    transformer = make(
        "StableAudio3DiTModel",
        io_channels=8,
        patch_size=1,
        embed_dim=32,
        depth=1,
        num_heads=4,
        cond_token_dim=16,
        global_cond_dim=16,
        local_add_cond_dim=5,
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
        "StableAudio3Pipeline",
        transformer=transformer,
        vae=kl,
        duration_embedder=StableAudio3DurationEmbedder(output_dim=16, fourier_dim=16),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "encoder_attention_mask": torch.ones(1, 3, dtype=torch.long)}
    return pipe, {**prompt, "duration": 1.0}


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


class NothingIsUnsafe(torch.nn.Module):
    """In the place of the guardrail models, which are a package of their own."""

    dtype, device = torch.float32, torch.device("cpu")

    def check_text_safety(self, prompt):
        return True


@pipeline("sigmas as the model's time")
def cosmos_2_5():
    transformer = make(
        "CosmosTransformer3DModel",
        in_channels=17,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,
        extra_pos_embed_type="learnable",
    )
    kl = make(
        "AutoencoderKLWan",
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    pipe = build("Cosmos2_5_PredictBasePipeline", transformer=transformer, vae=kl, safety_checker=NothingIsUnsafe())
    return pipe, {"prompt_embeds": noise(1, 3, 16), "height": 32, "width": 32, "num_frames": 1, "guidance_scale": 1.0}


@pipeline("two transformers, changed at a boundary of time")
def wan_2_2():
    pipe, call = wan("WanPipeline", num_frames=5)
    pipe.transformer_2 = pipe.transformer
    pipe.register_to_config(boundary_ratio=0.875)
    return pipe, call


@pipeline("guidance on attention")
def sd3_pag():
    transformer = sd3_transformer()
    pipe = build("StableDiffusion3PAGPipeline", transformer=transformer, vae=vae(4), pag_applied_layers="blocks.0")
    return pipe, {**SD3_PROMPT, **SD3_SIZE, "pag_scale": 1.0}
