"""Pipelines that take a prompt only as text, or use a model that reads text and images."""

from unittest.mock import MagicMock, patch

import torch
from diffusers import AdaptiveProjectedGuidance, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen
from transformers import (
    Qwen3VLConfig,
    Qwen3VLModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from tests import tiny

from .building import (
    Processor,
    build,
    flux_2_vae,
    hunyuan_vae,
    make,
    noise,
    pil_picture,
    t5,
    vae,
    variant,
    wan_vae,
)


def motif_video(name, **call):
    transformer = make(
        "MotifVideoTransformer3DModel",
        in_channels=33,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        rope_axes_dim=(4, 4, 4),
    )
    guider = AdaptiveProjectedGuidance(guidance_scale=1.0)
    pipe = build(name, transformer=transformer, vae=wan_vae(), guider=guider)
    prompt = {"prompt_embeds": noise(1, 3, 16), "prompt_attention_mask": torch.ones(1, 3)}
    return pipe, {**prompt, "height": 16, "width": 16, "num_frames": 9, **call}


@variant("MotifVideoPipeline")
def motif_text_to_video(name):
    return motif_video(name)


@variant("MotifVideoImage2VideoPipeline")
def motif_image_to_video(name):
    return motif_video(name, image=pil_picture(16), prompt=None)


@variant("DreamLitePipeline")
@variant("DreamLiteMobilePipeline")
def dream_lite(name):
    unet = make(
        "DreamLiteUNetModel",
        sample_size=8,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        block_out_channels=(32, 64),
        cross_attention_dim=16,
        attention_head_dim=8,
        layers_per_block=1,
        norm_num_groups=8,
    )
    kl = make(
        "AutoencoderTiny",
        encoder_block_out_channels=(32, 32),
        decoder_block_out_channels=(32, 32),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    text_encoder, tokenizer = t5()
    pipe = build(name, unet=unet, vae=kl, text_encoder=text_encoder, tokenizer=tokenizer)
    return pipe, {"prompt": "a", "height": 32, "width": 32}


JOY_IMAGE = {
    "patch_size": [1, 2, 2],
    "in_channels": 16,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "text_dim": 16,
    "num_layers": 1,
    "rope_dim_list": [4, 6, 6],
    "theta": 256,
}
JOY_PROMPT = {"prompt_embeds": noise(1, 3, 16), "prompt_embeds_mask": torch.ones(1, 3), "guidance_scale": 1.0}


@variant("JoyImageEditPipeline")
def joy_image_edit(name):
    pipe = build(name, transformer=make("JoyImageEditTransformer3DModel", **JOY_IMAGE), vae=wan_vae())
    return pipe, {**JOY_PROMPT, "height": 32, "width": 32}


@variant("JoyImageEditPlusPipeline")
def joy_image_edit_plus(name):
    pipe = build(name, transformer=make("JoyImageEditPlusTransformer3DModel", **JOY_IMAGE), vae=wan_vae())
    pipe.encode_prompt_multiple_images = lambda **kwargs: (noise(1, 3, 16), torch.ones(1, 3))
    return pipe, {"prompt": ["a"], "guidance_scale": 1.0, "height": 32, "width": 32}


@variant("OmniGenPipeline")
def omni_gen(name):
    transformer = make(
        "OmniGenTransformer2DModel",
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=32,
        num_layers=1,
        in_channels=4,
        time_step_dim=4,
        rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1)
    reader = processor_omnigen.OmniGenMultiModalProcessor
    with (  # torchvision, for input pictures
        patch.object(processor_omnigen, "transforms", MagicMock(), create=True),
        patch.object(pipeline_omnigen, "OmniGenMultiModalProcessor", reader, create=True),
    ):
        pipe = build(
            name, transformer=transformer, vae=vae(4, blocks=4), tokenizer=tiny.clip_tokenizer(), scheduler=scheduler
        )
    return pipe, {"prompt": ["a"], "height": 16, "width": 16}


BRIA_FIBO = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "text_encoder_dim": 16,
    "axes_dims_rope": [0, 4, 4],
}


@variant("BriaFiboPipeline")
@variant("BriaFiboEditPipeline")
def bria_fibo(name):
    tokenizer = tiny.clip_tokenizer()
    torch.manual_seed(0)
    config = SmolLM3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        pad_token_id=1,
    )
    pipe = build(
        name,
        transformer=make("BriaFiboTransformer2DModel", **BRIA_FIBO),
        vae=wan_vae(),
        text_encoder=SmolLM3ForCausalLM(config).eval(),
        tokenizer=tokenizer,
    )
    call = {"prompt": '{"a": "b"}', "guidance_scale": 1.0}
    if name == "BriaFiboEditPipeline":
        edit = {"prompt": '{"edit_instruction": "b"}', "image": pil_picture(), "_auto_resize": False}
        return pipe, {**call, **edit, "height": 32, "width": 32}
    return pipe, {**call, "height": 32, "width": 32}


LONGCAT_IMAGE = {
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": [4, 4, 8],
}


@variant("LongCatImagePipeline")
def longcat_image(name):
    transformer = make("LongCatImageTransformer2DModel", **LONGCAT_IMAGE)
    text_encoder, tokenizer = t5()
    pipe = build(name, transformer=transformer, vae=vae(16), text_encoder=text_encoder, tokenizer=tokenizer)
    call = {"prompt": "a", "guidance_scale": 1.0, "enable_prompt_rewrite": False}
    return pipe, {**call, "height": 32, "width": 32}


@variant("LongCatImageEditPipeline")
def longcat_image_edit(name):
    transformer = make("LongCatImageTransformer2DModel", **LONGCAT_IMAGE)
    processor = Processor()
    pipe = build(name, transformer=transformer, vae=vae(16), text_processor=processor)
    pipe._encode_prompt = lambda prompt, image: noise(1, 3, 16)
    return pipe, {"prompt": "a", "guidance_scale": 1.0, "image": pil_picture()}


@variant("Ideogram4Pipeline")
def ideogram_4(name):
    transformer = {
        "in_channels": 16,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "adaln_dim": 8,
        "llm_features_dim": 16 * 13,
        "mrope_section": (2, 1, 1),
    }
    tokenizer = tiny.clip_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'][0]['text'] }}"
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 36,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
        "head_dim": 8,
        "vocab_size": len(tokenizer),
    }
    vision = {"hidden_size": 8, "depth": 1, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    torch.manual_seed(0)
    pipe = build(
        name,
        transformer=make("Ideogram4Transformer2DModel", **transformer),
        unconditional_transformer=make("Ideogram4Transformer2DModel", **transformer),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)).eval(),
        tokenizer=tokenizer,
        vae=flux_2_vae(4),
    )
    return pipe, {
        "prompt": "a",
        "height": 32,
        "width": 32,
        "guidance_scale": 1.0,
        "guidance_schedule": None,
        "max_sequence_length": 64,
    }


@variant("BriaFibo2Pipeline")
def bria_fibo_2(name):
    transformer = make(
        "BriaFibo2Transformer2DModel",
        in_channels=4,
        patch_size=2,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=16,
        injection_layer_ids=(0,),
        perceiver_num_layers=1,
        min_num_gist_tokens=2,
        max_num_gist_tokens=4,
        gist_step=2,
        gist_min_text_len=2,
        gist_max_text_len=8,
        axes_dims=(8, 4, 4),
        axes_lens=(64, 32, 32),
    )
    pipe = build(name, transformer=transformer, vae=flux_2_vae(4))
    return pipe, {"prompt_embeds": noise(1, 6, 3, 16), "guidance_scale": 1.0, "height": 32, "width": 32}


@variant("Cosmos3OmniPipeline")
def cosmos_3(name):
    tokenizer = tiny.clip_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    transformer = make(
        "Cosmos3OmniTransformer",
        head_dim=6,
        hidden_act="relu2",
        hidden_size=6,
        intermediate_size=12,
        latent_channel=16,
        latent_patch_size=1,
        num_attention_heads=1,
        num_hidden_layers=1,
        num_key_value_heads=1,
        patch_latent_dim=16,
        qk_norm_for_text=False,
        rms_norm_eps=1e-5,
        rope_axes_dim=[1, 1, 1],
        vocab_size=len(tokenizer),
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    options = {"enable_safety_checker": False}
    pipe = build(
        name, transformer=transformer, vae=wan_vae(), text_tokenizer=tokenizer, scheduler=scheduler, **options
    )
    call = {"prompt": "a", "height": 16, "width": 16, "num_frames": 1, "guidance_scale": 1.0}
    off = ("use_system_prompt", "add_resolution_template", "add_duration_template")
    return pipe, {**call, **dict.fromkeys(off, False)}


@variant("Kandinsky6TI2VAPipeline")
def kandinsky_6(name):
    transformer = make(
        "Kandinsky6Transformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(1, 1, 2),
        visual_cond=False,
        in_audio_dim=4,
        out_audio_dim=4,
    )
    audio_vae = make(
        "MMAudioVAE", mel_bins=8, latent_channels=4, hidden_channels=8, channel_multipliers=(1, 1, 1), layers_per_block=1,
        sample_rate=1600, n_fft=64, hop_length=16,
    )  # fmt: skip
    vocoder = make(
        "MMAudioVocoder", num_mels=8, upsample_initial_channel=8, upsample_rates=(4, 4), upsample_kernel_sizes=(8, 8),
        resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3, 5),),
    )  # fmt: skip
    pipe = build(name, transformer=transformer, vae=hunyuan_vae(), audio_vae=audio_vae, vocoder=vocoder)
    prompt = {"prompt_embeds": noise(1, 3, 16), "pooled_prompt_embeds": noise(1, 16)}
    call = {"guidance_scale": 1.0, "height": 32, "width": 32, "num_frames": 5}
    return pipe, {**prompt, **call}
