"""Tiny pipelines of real classes without a family, with their text encoders."""

import diffusers
import torch
from diffusers import AdaptiveProjectedMixGuidance, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, GlmConfig, GlmModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tests import tiny
from tests.families import kit, tiny_flux
from tests.families.tiny_images import kl_vae
from tests.families.tiny_language_models import SIZES, qwen2_5_vl
from tests.families.tiny_videos import WAN, wan_parts
from tests.schedulers.stock_pipelines import VARIANTS


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Single bytes after a start token, padded on the left, as GLM's."""
    pieces = ["<pad>", "<sop>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = TemplateProcessing(single="<sop> $A", special_tokens=[("<sop>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", padding_side="left")


def cogview4():
    """Pads prompts to the longest one of a call, in steps of 16 tokens, and has no attention mask."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = GlmConfig(vocab_size=len(tokenizer), head_dim=8, num_key_value_heads=1, pad_token_id=0, **SIZES)
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return diffusers.CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=GlmModel(config).eval(),
        vae=kl_vae(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    )


def hunyuan_image(use_meanflow: bool = False):
    """Has two text encoders, masks, and guiders that evaluate the transformer twice per step."""
    torch.manual_seed(0)
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        patch_size=(1, 1),
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=8,
        rope_axes_dim=(4, 4),
        use_meanflow=use_meanflow,
    )
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        spatial_compression_ratio=4,
        sample_size=32,
        scaling_factor=0.5,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    byt5 = T5Config(vocab_size=384, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return diffusers.HunyuanImagePipeline(
        vae=vae.eval(),
        text_encoder_2=T5EncoderModel(byt5).eval(),
        tokenizer_2=ByT5Tokenizer(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=AdaptiveProjectedMixGuidance(),
        ocr_guider=AdaptiveProjectedMixGuidance(),
        **qwen2_5_vl(),
    )


def hunyuan_image_meanflow():
    """Its transformer takes a target time."""
    return hunyuan_image(use_meanflow=True)


def any_flow():
    """Generates videos, and its transformer takes a target time."""
    torch.manual_seed(0)
    transformer = diffusers.AnyFlowTransformer3DModel(**WAN, gate_value=0.25, deltatime_type="r")
    return diffusers.AnyFlowPipeline(transformer=transformer.eval(), **wan_parts())


def flux_kontext():
    """Edits an image, whose tokens follow those of the sample."""
    parts = tiny_flux.dev().components
    return diffusers.FluxKontextPipeline(**parts)


def flux_control():
    """Takes a control image in further channels."""
    torch.manual_seed(0)
    parts = tiny_flux.dev().components
    config = {**tiny_flux.SIZES, "in_channels": 16, "out_channels": 8, "guidance_embeds": True}
    transformer = diffusers.FluxTransformer2DModel(pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), **config)
    names = diffusers.FluxControlPipeline._get_signature_types().keys() - {"transformer"}
    return diffusers.FluxControlPipeline(
        transformer=transformer.eval(), **{name: part for name, part in parts.items() if name in names}
    )


def sd3_controlnet():
    """Runs a ControlNet, which changes the image, before each evaluation."""
    pipeline = tiny.sd3_pipeline()
    controlnet = diffusers.SD3ControlNetModel.from_transformer(
        tiny.sd3_transformer(), num_layers=1, num_extra_conditioning_channels=0, load_weights_from_transformer=False
    ).eval()
    kit.fill_zeros(controlnet)
    return diffusers.StableDiffusion3ControlNetPipeline(**pipeline.components, controlnet=controlnet)


def flux_controlnet():
    """Has tokens, and a ControlNet for both kinds of blocks."""
    parts = tiny_flux.dev().components
    config = {**tiny_flux.SIZES, "num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
    controlnet = diffusers.FluxControlNetModel(pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), **config).eval()
    kit.fill_zeros(controlnet)
    names = diffusers.FluxControlNetPipeline._get_signature_types().keys() - {"controlnet"}
    return diffusers.FluxControlNetPipeline(
        controlnet=controlnet, **{name: part for name, part in parts.items() if name in names}
    )


def wan_image_to_video(**config):
    """Takes the first frame of its video in further channels."""
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel(**{**WAN, "in_channels": 36})
    return diffusers.WanImageToVideoPipeline(transformer=transformer.eval(), **wan_parts(), **config)


def wan_image_to_video_with_two():
    """Has a second transformer for low noise."""
    second = diffusers.WanTransformer3DModel(**{**WAN, "in_channels": 36})
    return wan_image_to_video(transformer_2=second.eval(), boundary_ratio=0.9)


def wan_vace_with_two():
    """Follows a control video, which is blank here, and has a second transformer for low noise."""
    torch.manual_seed(0)
    config = {**WAN, "num_layers": 2, "vace_layers": [0, 1], "vace_in_channels": 96}
    transformers = [diffusers.WanVACETransformer3DModel(**config).eval() for _ in range(2)]
    return diffusers.WanVACEPipeline(
        **wan_parts(), transformer=transformers[0], transformer_2=transformers[1], boundary_ratio=0.875
    )


def cosmos3():
    """Takes one sample per call, as one sequence with the tokens of the prompt."""
    pipeline = VARIANTS["Cosmos3OmniPipeline"]()[0]
    pipeline.text_tokenizer.chat_template = "{{ messages[-1]['content'] }}"  # after a message of the system
    return pipeline
