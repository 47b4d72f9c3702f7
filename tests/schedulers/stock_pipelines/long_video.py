"""LTX pipelines, and pipelines that set the grid again within a call."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from .building import build, hunyuan_vae, ltx_2_vae, make, noise, picture, pipeline, variant


def ltx(name, **call):
    transformer = make(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    kl = make(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
    )
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_attention_mask": torch.ones(1, 3), "guidance_scale": 1.0}
    pipe = build(name, transformer=transformer, vae=kl)
    return pipe, {**prompt, "height": 32, "width": 32, "num_frames": 9, **call}


@pipeline("video in packed tokens")
def ltx_text_to_video():
    return ltx("LTXPipeline")


@pipeline("a frame kept out of step")
def ltx_image_to_video():
    return ltx("LTXImageToVideoPipeline", image=picture())


@pipeline("per_token_timesteps, prediction negated")
def ltx_condition():
    return ltx("LTXConditionPipeline", image=picture())


def ltx_2(name, **call):
    transformer = make(
        "LTX2VideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=16,
        rope_double_precision=False,
        rope_type="split",
    )
    torch.manual_seed(0)
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=2,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
    )
    audio_kl = make(
        "AutoencoderKLLTX2Audio",
        base_channels=4,
        output_channels=2,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        mid_block_add_attention=False,
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(in_channels=16, hidden_channels=32)  # 240 samples of 24 kHz per frame of 10 ms
    pipe = build(
        name,
        transformer=transformer,
        connectors=connectors.eval(),
        vae=ltx_2_vae(),
        audio_vae=audio_kl,
        vocoder=vocoder.eval(),
    )
    prompt = {"prompt_embeds": noise(1, 3, 32), "prompt_attention_mask": torch.ones(1, 3)}
    return pipe, {**prompt, "height": 32, "width": 32, "num_frames": 5, "guidance_scale": 1.0, **call}


LTX_2_OFF = {
    **dict.fromkeys(("modality_scale", "audio_guidance_scale", "audio_modality_scale"), 1.0),
    **dict.fromkeys(("stg_scale", "audio_stg_scale"), 0.0),
}


@pipeline("a copy of the scheduler for the audio, velocity to picture and back")
def ltx_2_text_to_video():
    return ltx_2("LTX2Pipeline", **LTX_2_OFF)


@variant("LTX2ImageToVideoPipeline")
def ltx_2_image_to_video(name):
    return ltx_2(name, image=picture(), image_crf=0, **LTX_2_OFF)


@variant("LTX2ConditionPipeline")
@variant("LTX2InContextPipeline")
def ltx_2_condition(name):
    return ltx_2(name, conditions=LTX2VideoCondition(frames=picture(), index=0, strength=1.0, crf=0), **LTX_2_OFF)


@variant("LTX2DFRPipeline")
def ltx_2_dfr(name):
    pipe, call = ltx_2(name, generate_slots=False)
    return pipe, {key: value for key, value in call.items() if key != "guidance_scale"}


@variant("LTX2HDRPipeline")
def ltx_2_hdr(name):
    return ltx_2(name, reference_conditions=LTX2HDRReferenceCondition(frames=picture(), strength=1.0))


@pipeline("set_timesteps again for every section")
def hunyuan_video_framepack():
    transformer = make(
        "HunyuanVideoFramepackTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        image_condition_type=None,
        has_image_proj=True,
        image_proj_dim=16,
        has_clean_x_embedder=True,
    )
    torch.manual_seed(0)
    config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    pipe = build(
        "HunyuanVideoFramepackPipeline",
        transformer=transformer,
        vae=hunyuan_vae(),
        image_encoder=SiglipVisionModel(SiglipVisionConfig(image_size=30, patch_size=15, **config)).eval(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 30, "width": 30}),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    prompt = {
        "prompt_embeds": noise(1, 3, 16),
        "pooled_prompt_embeds": noise(1, 8),
        "prompt_attention_mask": torch.ones(1, 3),
    }
    return pipe, {**prompt, "image": picture(), "height": 32, "width": 32, "num_frames": 18, "latent_window_size": 3}
