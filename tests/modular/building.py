"""Modular pipelines of diffusers with tiny real components.

`TWINS` have a stock pipeline with the same model, whose tiny components they take. `ALONE` have none. `CANNOT` says of all
others why they cannot take the scheduler.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
from diffusers import ModularPipeline
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from diffusers_twinflow.families.guiders import turn_guiders_off
from tests import tiny
from tests.models.stock import STOCK
from tests.schedulers.stock_pipelines import PIPELINES, VARIANTS
from tests.schedulers.stock_pipelines.building import make, noise, pil_picture
from tests.schedulers.stock_pipelines.video import wan

ENCODERS = ("text_encoder", "prompt_enhancer", "prompt_upsampler", "prompt_upsample", "decode")
"""Blocks before and after the denoising loop that embeddings and latents make unnecessary."""


@dataclass(frozen=True)
class Twin:
    """A stock pipeline with the same model.

    Attributes:
        contract: its name in the tables of tiny stock pipelines.
        inputs: inputs of the modular pipeline that replace the arguments of the stock call.
        stock: arguments of the stock call that are replaced.
        twice: whether the modular pipeline has two denoisers, which are then the same.
        output: what the modular pipeline returns that is compared.
        keeps: blocks that are kept, although they are in `ENCODERS`.
        drops: further blocks that are removed, with the names of the blocks around them.
        scheduler: options of the scheduler.
        parts: components and options that the stock pipeline does not have.
        build: what builds the stock pipeline and the arguments of its call, if not the contract.
        tolerance: largest difference of the latents. The default allows for rounding alone.
    """

    contract: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    stock: Mapping[str, Any] = field(default_factory=dict)
    twice: bool = False
    output: str = "latents"
    keeps: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[[], tuple[diffusers.DiffusionPipeline, dict[str, Any]]] | None = None
    tolerance: float = 1e-5


def wan_with_image_encoder():
    """Wan 2.1, whose transformer takes the image from an image encoder too."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    encoder = {"image_encoder": CLIPVisionModel(vision).eval(), "image_processor": CLIPImageProcessor(**sizes)}
    return wan(
        "WanImageToVideoPipeline",
        36,
        config={"image_dim": 32},
        components=encoder,
        image=pil_picture(16),
        num_frames=9,
    )


UNCHECKED = {"enable_safety_checker": False}
NO_IMAGES = {"image_pad_mask": torch.zeros(1, 3, dtype=torch.bool)}
PICTURE = {"image": pil_picture()}
LTX_2 = Twin(
    "a copy of the scheduler for the audio, velocity to picture and back",
    keeps=("text_encoder",),
    drops=("text_encoder.text_encoder",),
    inputs={"batch_size": 1, "dtype": torch.float32},
    parts={"tokenizer": tiny.clip_tokenizer()},
)
DIFFUSION_DECODER = make(
    "LTX2VideoDiffusionDecoderModel",
    latent_channels=4,
    patch_size=1,
    decoder_head_dim=8,
    decoder_stage_channels=(16,) * 5,
    decoder_stage_depths=(1,) * 5,
    decoder_stage_kernels=((1, 1, 1),) * 4,
    decoder_upsample_strides=((1, 1, 1), (1, 1, 1), (1, 1, 1), (2, 2, 2)),
    decoder_upsample_channel_reductions=(1,) * 4,
    decoder_stage5_kernel=(1, 1, 1),
    decoder_t_emb_dim=16,
    spatial_compression_ratio=2,
    temporal_compression_ratio=2,
)
"""Decodes the latents of LTX-2's autoencoder from version 2.5 on."""
TWINS = {
    "ErnieImage": Twin("linear sigmas as a tensor, reads prev_sample", keeps=("decode",)),
    "Flux": Twin("linear sigmas and mu"),
    "Flux2": Twin("Flux2Pipeline"),
    "Flux2Klein": Twin("use_flow_sigmas is looked at", tolerance=1e-3),
    "Flux2KleinBase": Twin("use_flow_sigmas is looked at", tolerance=1e-3),
    "FluxKontext": Twin("reference tokens", PICTURE, PICTURE),
    "Helios": Twin("HeliosPipeline"),
    "HunyuanVideo15": Twin("HunyuanVideo15Pipeline"),
    "Krea2": Twin("time by the scheduler's own scale", keeps=("decode",)),
    "Krea2Turbo": Twin("time by the scheduler's own scale", keeps=("decode",)),
    "LTX": Twin("video in packed tokens"),
    "QwenImage": Twin("video autoencoder for images"),
    "QwenImageEdit": Twin("QwenImageEditPipeline"),
    "QwenImageEditPlus": Twin("QwenImageEditPlusPipeline"),
    "QwenImageLayered": Twin("QwenImageLayeredPipeline", {"output_type": "pt"}, keeps=("decode",), output="images"),
    "QwenImage21": Twin("QwenImage21Pipeline", NO_IMAGES),
    "QwenImage21Turbo": Twin("QwenImage21Pipeline", NO_IMAGES),
    "Ideogram4": Twin("Ideogram4Pipeline", {"guidance_schedule": [1.0, 1.0]}, keeps=("text_encoder", "decode")),
    "StableDiffusion3": Twin("steps only"),
    "Wan": Twin("video, sigmas read as numbers"),
    "Wan22Image2Video": Twin("image to video", PICTURE, PICTURE, twice=True),
    "Wan22": Twin("two transformers, changed at a boundary of time"),
    "ZImage": Twin("prediction negated, reversed time"),
    "Cosmos3Omni": Twin("Cosmos3OmniPipeline", keeps=("text_encoder",), parts=UNCHECKED),
    "Cosmos3Distilled": Twin(
        "Cosmos3OmniPipeline",
        keeps=("text_encoder",),
        scheduler={"stochastic_ratio": 0.0},  # only this one gives the scheduler the generator
        parts=UNCHECKED | {"distilled_sigmas": [1.0, 0.5]},
    ),
    "LTX2": LTX_2,
    "LTX25": replace(LTX_2, parts={**LTX_2.parts, "diffusion_decoder": DIFFUSION_DECODER}),
    "Wan22Vace": Twin("WanVACEPipeline", twice=True),
    "WanImage2Video": Twin("", build=wan_with_image_encoder),
}


def twin(
    name: str, keeps: Sequence[str] = ()
) -> tuple[ModularPipeline, dict[str, Any], diffusers.DiffusionPipeline, dict[str, Any]]:
    """A modular pipeline and its inputs, and the stock pipeline with the same components and the arguments of its call.

    Args:
        keeps: further blocks that are kept.
    """
    case = TWINS[name]
    stock, call = (case.build or {**PIPELINES, **VARIANTS}[case.contract])()
    blocks = getattr(diffusers, f"{name}ModularPipeline")().blocks
    for block in set(ENCODERS) & set(blocks.sub_blocks) - {*case.keeps, *keeps}:
        blocks.sub_blocks.pop(block)
    for place in case.drops:
        around, _, block = place.rpartition(".")
        (blocks.sub_blocks[around] if around else blocks).sub_blocks.pop(block)
    components = {n: each for n, each in stock.components.items() if each is not None and n != "scheduler"}
    if case.twice:
        components["transformer_2"] = stock.transformer
    modular = prepared(blocks, components)
    wanted = {each.name for each in blocks.expected_components}
    parts = {n: part for n, part in case.parts.items() if not isinstance(part, torch.nn.Module) or n in wanted}
    modular.update_components(**parts)
    names = {each.name for each in blocks.inputs}
    inputs = {n: value for n, value in call.items() if n in names} | dict(case.inputs)
    negative = {n: f"negative_{n}" for n, value in inputs.items() if isinstance(value, torch.Tensor)}
    inputs |= {other: torch.zeros_like(inputs[n]) for n, other in negative.items() if other in names}
    return modular, inputs, stock, call | dict(case.stock)


def prepared(blocks: Any, components: Mapping[str, Any]) -> ModularPipeline:
    """A modular pipeline with these components, without guidance and without a scheduler."""
    modular = blocks.init_pipeline()
    wanted = {each.name for each in blocks.expected_components}
    modular.update_components(**{name: each for name, each in components.items() if name in wanted})
    modular.set_progress_bar_config(disable=True)
    turn_guiders_off(modular)
    return modular


def core(name: str, components: Mapping[str, Any], **inputs: Any) -> tuple[ModularPipeline, dict[str, Any]]:
    """The denoising block alone, which takes embeddings and returns latents, and its inputs."""
    blocks = getattr(diffusers, f"{name}ModularPipeline")().blocks
    for block in set(blocks.sub_blocks) - {"denoise"}:
        blocks.sub_blocks.pop(block)
    return prepared(blocks, components), inputs


def flux_3():
    transformer = STOCK["Flux3Transformer2DModel"].build(diffusers.Flux3Transformer2DModel)
    return core("Flux3", {"transformer": transformer}, prompt_embeds=noise(1, 3, 8), height=32, width=32)


def flux_3_distilled():
    """Its flow map has a target time of its own, which the block takes from the next of the scheduler's times."""
    config = STOCK["Flux3Transformer2DModel"].config | {"flow_map": True}
    transformer = make("Flux3Transformer2DModel", **config)
    return core("Flux3Distilled", {"transformer": transformer}, prompt_embeds=noise(1, 3, 8), height=32, width=32)


ANIMA = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "mlp_ratio": 1,
    "text_embed_dim": 8,
    "adaln_lora_dim": 4,
    "max_size": (4, 32, 32),
    "patch_size": (1, 2, 2),
    "concat_padding_mask": False,
    "extra_pos_embed_type": None,
}
"""Sizes of its transformer."""


def anima():
    transformer = make("CosmosTransformer3DModel", **ANIMA, num_layers=1)
    conditioner = make(
        "AnimaTextConditioner",
        source_dim=8,
        target_dim=8,
        model_dim=8,
        num_layers=1,
        num_attention_heads=1,
        target_vocab_size=16,
    )
    ids = torch.tensor([[1, 2, 3]])
    return core(
        "Anima",
        {"transformer": transformer, "text_conditioner": conditioner},
        qwen_prompt_embeds=noise(1, 4, 8),
        qwen_attention_mask=torch.ones(1, 4, dtype=torch.long),
        t5_input_ids=ids,
        t5_attention_mask=torch.ones_like(ids),
        height=32,
        width=32,
    )


def minimax_music():
    transformer = STOCK["MiniMaxMusic3Transformer1DModel"].build(diffusers.MiniMaxMusic3Transformer1DModel)
    encoder = make("MiniMaxMusic3ConditionEncoder", condition_hidden_dim=4, num_condition_layers=2, out_dim=8)
    components = {"transformer": transformer, "condition_encoder": encoder}
    return core("MiniMaxMusic3", components, frame_hiddens=noise(1, 6, 8))


RISING = {"invert_sigmas": True, "num_train_timesteps": 1}
"""The published scheduler of MiniMax Music 3, whose times rise from noise to data."""
ALONE: dict[str, Callable[[], tuple[ModularPipeline, dict[str, Any]]]] = {
    "Anima": anima,
    "Flux3": flux_3,
    "Flux3Distilled": flux_3_distilled,
    "MiniMaxMusic3": minimax_music,
}
SCHEDULER_OPTIONS: dict[str, dict[str, Any]] = {
    "Flux3Distilled": {"sampling_style": "any"},
    "MiniMaxMusic3": RISING,
}

STAGES = "it passes a stage to set_timesteps, of one grid over several resolutions"
CANNOT = {
    "StableDiffusionXL": "its blocks fail if the guider is off, with the scheduler of the base too",
    "Echo": "it has no scheduler component",
    "HeliosPyramid": STAGES,
    "HeliosPyramidDistilled": STAGES,
}
UNTESTED = {
    "MiniMaxH3",
    "WanAnimate2",
    "WanAnimate2Distilled",
}
"""Pipelines for which no tiny inputs are built."""
