"""The model families of SimpleTuner: their bases and stock pipelines, or why they cannot be trained here."""

import re
from dataclasses import dataclass, field

import diffusers

from ...configuration import TwinFlowConfigError
from ...families.registry import CLASSES, family_of_pipeline_class

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
CONTEXT = ["add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"]
CONTEXT_FEED_FORWARD = ["ff_context.net.0.proj", "ff_context.net.2"]
FLUX_LORA_TARGETS = {
    "all": [*ATTENTION, *CONTEXT],
    "all+ffs": [
        *ATTENTION,
        *CONTEXT,
        "ff.net.0.proj",
        "ff.net.2",
        *CONTEXT_FEED_FORWARD,
        "proj_mlp",
        "proj_out",
    ],
    "context": CONTEXT,
    "context+ffs": [*CONTEXT, *CONTEXT_FEED_FORWARD],
    "nano": ["single_transformer_blocks.7.proj_out"],
    "tiny": ["single_transformer_blocks.7.proj_out", "single_transformer_blocks.20.proj_out"],
}

SINGLE_FILE = (
    "SimpleTuner replaces the base's transformer by another file; save a pipeline that includes it, and set "
    "pretrained_model_name_or_path to its folder"
)
REFINER = "a refiner only finishes the images of another model"
OWN_MODEL = "diffusers has no such model; SimpleTuner brings the code of the model"
TWO_TIMES = "its video and its sound have different times in each step, but training draws one time per sample"
SOUND = "it generates sound from lyrics, and training needs images, videos or prompts"
DIFFUSION = "it is a diffusion model, and the diff2flow bridge has no family for it"
UNTRAINABLE = {
    "boogu_image": OWN_MODEL,
    "deepfloyd": "it generates pixels in several stages, and only latent models are supported",
    "heartmula": "it predicts one token after another and is not a flow model",
    "infinitetalk": OWN_MODEL,
    "kolors": DIFFUSION,
    "longcat_video": OWN_MODEL,
    "mageflow": OWN_MODEL,
    "minimaxh3": TWO_TIMES,
    "minimaxmusic": SOUND,
    "stable_cascade": DIFFUSION,
    "wan_s2v": OWN_MODEL,
    "zlab_i1": OWN_MODEL,
}
"""Families of SimpleTuner that cannot be trained here, with the reason."""


@dataclass(frozen=True)
class SimpleTunerFamily:
    """A model family of SimpleTuner.

    Attributes:
        pipeline: class name of the stock pipeline.
        default: flavour of a recipe that does not name one.
        flavours: Hub id of the base of each flavour.
        pipelines: class name of the stock pipeline of flavours that have another one.
        refused: flavours that cannot be trained here, with the reason.
        lora_layers: layers that a LoRA adapts by default, except layers that exist only in fused projections. Empty if
            the layers of the stock model have other names than SimpleTuner's.
        training_adapters: flavours for which SimpleTuner loads an additional LoRA on the base during training.
    """

    pipeline: str
    default: str
    flavours: dict[str, str]
    pipelines: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    lora_layers: list[str] = field(default_factory=lambda: list(ATTENTION))
    training_adapters: tuple[str, ...] = ()


FAMILIES = {
    "sd3": SimpleTunerFamily(
        "StableDiffusion3Pipeline",
        "medium",
        {"medium": "stabilityai/stable-diffusion-3.5-medium", "large": "stabilityai/stable-diffusion-3.5-large"},
    ),
    "flux": SimpleTunerFamily(
        "FluxPipeline",
        "krea",
        {
            "dev": "black-forest-labs/FLUX.1-dev",
            "krea": "black-forest-labs/FLUX.1-Krea-dev",
            "schnell": "black-forest-labs/FLUX.1-schnell",
            "kontext": "black-forest-labs/FLUX.1-Kontext-dev",
            "fluxbooru": "terminusresearch/fluxbooru-v0.3",
            "libreflux": "jimmycarter/LibreFlux-SimpleTuner",
        },
        pipelines={"kontext": "FluxKontextPipeline"},
        lora_layers=FLUX_LORA_TARGETS["all"],
        training_adapters=("schnell",),
    ),
    "flux2": SimpleTunerFamily(
        "Flux2KleinPipeline",
        "klein-9b",
        {
            "dev": "black-forest-labs/FLUX.2-dev",
            "klein-4b": "black-forest-labs/FLUX.2-klein-base-4B",
            "klein-9b": "black-forest-labs/FLUX.2-klein-base-9B",
        },
        pipelines={"dev": "Flux2Pipeline"},
        lora_layers=[*(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj"))],
    ),
    "qwen_image": SimpleTunerFamily(
        "QwenImagePipeline",
        "v2.0",
        {
            "v1.0": "Qwen/Qwen-Image",
            "v2.0": "Qwen/Qwen-Image-2512",
            "edit-v1": "Qwen/Qwen-Image-Edit",
            "edit-v2": "Qwen/Qwen-Image-Edit-2509",
            "edit-v2+": "Qwen/Qwen-Image-Edit-2509",
            "edit-v3": "Qwen/Qwen-Image-Edit-2511",
        },
        pipelines={
            "edit-v1": "QwenImageEditPipeline",
            **dict.fromkeys(("edit-v2", "edit-v2+", "edit-v3"), "QwenImageEditPlusPipeline"),
        },
    ),
    "z_image": SimpleTunerFamily(
        "ZImagePipeline",
        "turbo-ostris-v2",
        {
            "base": "Tongyi-MAI/Z-Image",
            "turbo": "Tongyi-MAI/Z-Image-Turbo",
            "turbo-ostris-v2": "Tongyi-MAI/Z-Image-Turbo",
        },
        refused={"ostris-de-turbo": SINGLE_FILE},
        training_adapters=("turbo", "turbo-ostris-v2"),
    ),
    "z_image_omni": SimpleTunerFamily(
        "ZImageOmniPipeline", "base", {"base": "TONGYI-Lab/Z-Image-Base", "edit": "TONGYI-Lab/Z-Image-Edit"}
    ),
    "anima": SimpleTunerFamily(
        "AnimaModularPipeline",
        "preview-3",
        {
            "release": "circlestone-labs/Anima-Base-v1.0-Diffusers",
            "base-v1.0": "circlestone-labs/Anima-Base-v1.0-Diffusers",
            "preview": "CalamitousFelicitousness/Anima-sdnext-diffusers",
            "preview-2": "CalamitousFelicitousness/Anima-Preview-2-sdnext-diffusers",
            "preview-3": "CalamitousFelicitousness/Anima-Preview-3-sdnext-diffusers",
        },
        refused={"gazingstars123-2.9b": SINGLE_FILE},
    ),
    "chroma": SimpleTunerFamily(
        "ChromaPipeline",
        "base",
        {
            "base": "lodestones/Chroma1-Base",
            "hd": "lodestones/Chroma1-HD",
            "flash": "lodestones/Chroma1-Flash",
        },
    ),
    "sana": SimpleTunerFamily(
        "SanaPipeline",
        "sana1.5-4.8b-1024",
        {
            "sana1.5-4.8b-1024": "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
            "sana1.5-1.6b-1024": "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
            "sana1.0-1.6b-2048": "Efficient-Large-Model/Sana_1600M_2Kpx_BF16_diffusers",
            "sana1.0-1.6b-1024": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
            "sana1.0-600m-1024": "Efficient-Large-Model/Sana_600M_1024px_diffusers",
            "sana1.0-600m-512": "Efficient-Large-Model/Sana_600M_512px_diffusers",
        },
    ),
    "sanavideo": SimpleTunerFamily(
        "SanaVideoPipeline", "2b-480p", {"2b-480p": "Efficient-Large-Model/SANA-Video_2B_480p_diffusers"}
    ),
    "lumina2": SimpleTunerFamily(
        "Lumina2Pipeline",
        "2.0",
        {"2.0": "Alpha-VLLM/Lumina-Image-2.0", "neta-lumina": "terminusresearch/neta-lumina-v1"},
    ),
    "auraflow": SimpleTunerFamily(
        "AuraFlowPipeline",
        "v0.3",
        {
            "pony": "purplesmartai/pony-v7-base",
            "v0.3": "terminusresearch/auraflow-v0.3",
            "v0.2": "fal/AuraFlow-v0.2",
            "v0.1": "fal/AuraFlow",
        },
        lora_layers=[*ATTENTION, *CONTEXT],
    ),
    "ace_step": SimpleTunerFamily(
        "AceStepPipeline",
        "base",
        dict.fromkeys(("v15-base", "v15-sft", "v15-turbo"), "ACE-Step/Ace-Step1.5"),
        refused={"base": "diffusers has a pipeline for ACE-Step 1.5, but not for ACE-Step 1"},
    ),
    "bria": SimpleTunerFamily("BriaPipeline", "v3.2", {"v3.2": "briaai/BRIA-3.2"}),
    "cosmos2image": SimpleTunerFamily(
        "Cosmos2TextToImagePipeline",
        "2b",
        {"2b": "nvidia/Cosmos-Predict2-2B-Text2Image", "14b": "nvidia/Cosmos-Predict2-14B-Text2Image"},
    ),
    "cosmos3": SimpleTunerFamily(
        "Cosmos3OmniPipeline",
        "nano",
        {
            "edge": "nvidia/Cosmos3-Edge",
            "nano": "nvidia/Cosmos3-Nano",
            "super": "nvidia/Cosmos3-Super",
            "super-i2v": "nvidia/Cosmos3-Super-Image2Video",
            "super-t2i": "nvidia/Cosmos3-Super-Text2Image",
        },
        lora_layers=CONTEXT,
    ),
    "ernie": SimpleTunerFamily(
        "ErnieImagePipeline",
        "base",
        {"base": "baidu/ERNIE-Image", "turbo": "baidu/ERNIE-Image-Turbo"},
        training_adapters=("turbo",),
    ),
    "hidream": SimpleTunerFamily(
        "HiDreamImagePipeline",
        "full",
        {
            "dev": "HiDream-ai/HiDream-I1-Dev",
            "full": "HiDream-ai/HiDream-I1-Full",
            "fast": "HiDream-ai/HiDream-I1-Fast",
        },
        lora_layers=["to_k", "to_q", "to_v"],
    ),
    "hunyuanvideo": SimpleTunerFamily(
        "HunyuanVideo15Pipeline",
        "t2v-480p",
        {
            name: f"hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-{base}"
            for name, base in (
                ("t2v-480p", "480p_t2v"),
                ("t2v-720p", "720p_t2v"),
                ("t2v-480p-distilled", "480p_t2v_distilled"),
                ("i2v-480p", "480p_i2v"),
                ("i2v-720p", "720p_i2v"),
                ("i2v-480p-distilled", "480p_i2v_distilled"),
                ("i2v-720p-distilled", "720p_i2v_distilled"),
            )
        },
        pipelines=dict.fromkeys(
            ("i2v-480p", "i2v-720p", "i2v-480p-distilled", "i2v-720p-distilled"), "HunyuanVideo15ImageToVideoPipeline"
        ),
        lora_layers=[*ATTENTION, *CONTEXT],
    ),
    "ideogram": SimpleTunerFamily(
        "Ideogram4Pipeline",
        "fp8",
        {"fp8": "ideogram-ai/ideogram-4-fp8", "nf4": "ideogram-ai/ideogram-4-nf4"},
        lora_layers=[*ATTENTION, "w1", "w2", "w3"],
    ),
    "kandinsky5_image": SimpleTunerFamily(
        "Kandinsky5T2IPipeline",
        "t2i-lite-sft",
        {
            "t2i-lite-sft": "kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers",
            "t2i-lite-pretrain": "kandinskylab/Kandinsky-5.0-T2I-Lite-pretrain-Diffusers",
            "i2i-lite-sft": "kandinskylab/Kandinsky-5.0-I2I-Lite-sft-Diffusers",
            "i2i-lite-pretrain": "kandinskylab/Kandinsky-5.0-I2I-Lite-pretrain-Diffusers",
        },
        pipelines=dict.fromkeys(("i2i-lite-sft", "i2i-lite-pretrain"), "Kandinsky5I2IPipeline"),
        lora_layers=["to_key", "to_query", "to_value"],
    ),
    "kandinsky5_video": SimpleTunerFamily(
        "Kandinsky5T2VPipeline",
        "t2v-lite-sft-5s",
        {
            "t2v-lite-sft-5s": "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers",
            "t2v-lite-pretrain-5s": "kandinskylab/Kandinsky-5.0-T2V-Lite-pretrain-5s-Diffusers",
            "t2v-lite-sft-10s": "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-10s-Diffusers",
            "t2v-lite-pretrain-10s": "kandinskylab/Kandinsky-5.0-T2V-Lite-pretrain-10s-Diffusers",
            "t2v-pro-sft-5s-hd": "kandinskylab/Kandinsky-5.0-T2V-Pro-sft-5s-Diffusers",
            "t2v-pro-sft-10s-hd": "kandinskylab/Kandinsky-5.0-T2V-Pro-sft-10s-Diffusers",
            "t2v-pro-pretrain-5s-hd": "kandinskylab/Kandinsky-5.0-T2V-Pro-pretrain-5s-Diffusers",
            "t2v-pro-pretrain-10s-hd": "kandinskylab/Kandinsky-5.0-T2V-Pro-pretrain-10s-Diffusers",
            "i2v-lite-5s": "kandinskylab/Kandinsky-5.0-I2V-Lite-5s-Diffusers",
            "i2v-pro-sft-5s": "kandinskylab/Kandinsky-5.0-I2V-Pro-sft-5s-Diffusers",
        },
        pipelines=dict.fromkeys(("i2v-lite-5s", "i2v-pro-sft-5s"), "Kandinsky5I2VPipeline"),
        lora_layers=["to_key", "to_query", "to_value"],
    ),
    "krea2": SimpleTunerFamily("Krea2Pipeline", "raw", {"raw": "krea/Krea-2-Raw", "turbo": "krea/Krea-2-Turbo"}),
    "longcat_image": SimpleTunerFamily(
        "LongCatImagePipeline",
        "final",
        {
            "final": "meituan-longcat/LongCat-Image",
            "dev": "meituan-longcat/LongCat-Image-Dev",
            "edit": "meituan-longcat/LongCat-Image-Edit",
        },
        pipelines={"edit": "LongCatImageEditPipeline"},
    ),
    "ltxvideo": SimpleTunerFamily(
        "LTXPipeline", "0.9.5", {"0.9.5": "Lightricks/LTX-Video-0.9.5", "0.9.0": "Lightricks/LTX-Video"}
    ),
    "ltxvideo2": SimpleTunerFamily(
        "LTX2Pipeline",
        "dev",
        {
            "dev": "Lightricks/LTX-2",
            "dev-fp4": "Lightricks/LTX-2",
            "dev-fp8": "Lightricks/LTX-2",
            "2.3-dev": "dg845/LTX-2.3-Diffusers",
            "2.3-distilled": "dg845/LTX-2.3-Distilled-Diffusers",
            "2.5-dev": "Lightricks/LTX-2.5",
            "2.5-distilled": "Lightricks/LTX-2.5",
        },
    ),
    "omnigen": SimpleTunerFamily("OmniGenPipeline", "v1", {"v1": "Shitao/OmniGen-v1-diffusers"}, lora_layers=[]),
    "wan": SimpleTunerFamily(
        "WanPipeline",
        "t2v-480p-1.3b-2.1",
        {
            "t2v-480p-1.3b-2.1": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            "t2v-480p-14b-2.1": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
            "i2v-14b-2.1": "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
            "i2v-14b-2.1-720p": "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
            "i2v-14b-2.2-high": "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            "i2v-14b-2.2-low": "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            "flf2v-14b-2.1": "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
            "vace-1.3b-2.1": "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            "vace-14b-2.1": "Wan-AI/Wan2.1-VACE-14B-diffusers",
            "ti2v-5b-2.2": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        },
        pipelines={
            **dict.fromkeys(
                ("i2v-14b-2.1", "i2v-14b-2.1-720p", "i2v-14b-2.2-high", "i2v-14b-2.2-low", "flf2v-14b-2.1"),
                "WanImageToVideoPipeline",
            ),
            **dict.fromkeys(("vace-1.3b-2.1", "vace-14b-2.1"), "WanVACEPipeline"),
        },
        refused=dict.fromkeys(("animegen-t2v-high", "animegen-t2v-low"), SINGLE_FILE),
    ),
    "sd1x": SimpleTunerFamily(
        "StableDiffusionPipeline",
        "dreamshaper",
        {
            "1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "1.4": "CompVis/stable-diffusion-v1-4",
            "dreamshaper": "Lykon/dreamshaper-8",
        },
        refused={"realvis": "this base is a Stable Diffusion XL model; set model_family to 'sdxl'"},
    ),
    "sd2x": SimpleTunerFamily(
        "StableDiffusionPipeline",
        "pseudoflex-v2",
        {
            "digitaldiffusion": "Junglerally/Digital-Diffusion",
            "pseudoflex-v2": "bghira/pseudo-flex-v2",
            "pseudojourney": "bghira/pseudo-journey-v2",
            "2.1": "stabilityai/stable-diffusion-2-1",
            "2.0": "stabilityai/stable-diffusion-2-0",
        },
    ),
    "sdxl": SimpleTunerFamily(
        "StableDiffusionXLPipeline",
        "base-1.0",
        {
            "base-1.0": "stabilityai/stable-diffusion-xl-base-1.0",
            "base-0.9": "stabilityai/stable-diffusion-xl-base-0.9",
        },
        refused=dict.fromkeys(("refiner-1.0", "refiner-0.9"), REFINER),
    ),
    "pixart": SimpleTunerFamily(
        "PixArtSigmaPipeline",
        "900M-1024-v0.6",
        {
            "900M-1024-v0.6": "terminusresearch/pixart-900m-1024-ft-v0.6",
            "900M-1024-v0.7-stage1": "terminusresearch/pixart-900m-1024-ft-v0.7-stage1",
            "900M-1024-v0.7-stage2": "terminusresearch/pixart-900m-1024-ft-v0.7-stage2",
            "600M-512": "PixArt-alpha/PixArt-Sigma-XL-2-512-MS",
            "600M-1024": "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
            "600M-2048": "PixArt-alpha/PixArt-Sigma-XL-2-2K-MS",
        },
    ),
}

SPELLINGS = {
    "aura_flow": "auraflow",
    "cosmos": "cosmos2image",
    "hunyuan_video": "hunyuanvideo",
    "ltx_video": "ltxvideo",
    "ltx_video2": "ltxvideo2",
    "pixart_sigma": "pixart",
    "sana_video": "sanavideo",
    "stable_diffusion": "sd1x",
    "stable_diffusion_2": "sd2x",
    "stable_diffusion_3": "sd3",
    "stable_diffusion_xl": "sdxl",
}
"""Other names of SimpleTuner's families: names of our families and names that read alike."""


def simpletuner_family(name: str) -> SimpleTunerFamily | None:
    """Return a family of SimpleTuner by its name in any spelling, or by our name; `None` if there is none."""
    return FAMILIES.get(_plain(name))


def check_trainable(name: str) -> None:
    """
    Raises:
        TwinFlowConfigError: if a family of SimpleTuner cannot be trained here. The message says why.
    """
    reason = UNTRAINABLE.get(_plain(name))
    if reason is not None:
        raise TwinFlowConfigError(f"model_family={name!r} cannot be trained: {reason}.")


def base_of(name: str, flavour: str | None = None) -> str:
    """Return the Hub id of the base that a model family and a flavour name.

    Args:
        name: a family of SimpleTuner or of this package, or the class name of a stock pipeline, in any spelling.
        flavour: a flavour of the family. Defaults to SimpleTuner's default.

    Raises:
        TwinFlowConfigError: if they name no base, or one that cannot be trained. The message says why.
    """
    check_trainable(name)
    pipeline, family = pipeline_of(name, flavour), simpletuner_family(name)
    if family_of_pipeline_class(pipeline) is None:
        raise TwinFlowConfigError(
            f"model_family={name!r} cannot be trained: {pipeline} is not a flow-matching pipeline of the installed diffusers."
        )
    if family is None:
        raise TwinFlowConfigError(
            f"model_family={name!r} means {pipeline}, but SimpleTuner has no base for it. Set "
            "pretrained_model_name_or_path to the base."
        )
    return family.flavours[flavour or family.default]


def pipeline_of(name: str, flavour: str | None = None) -> str:
    """Return the class name of the stock pipeline of a model family and a flavour, see `base_of`.

    Raises:
        TwinFlowConfigError: if there is no such family, or the family has no such flavour that can be trained.
    """
    family = simpletuner_family(name)
    if family is None:
        return _stock_pipeline(name)
    flavour = flavour or family.default
    if flavour in family.refused:
        raise TwinFlowConfigError(f"model_flavour={flavour!r} of {name} cannot be trained: {family.refused[flavour]}.")
    if flavour not in family.flavours:
        raise TwinFlowConfigError(
            f"model_flavour={flavour!r} of {name} is not one of {', '.join(family.flavours)}. Set "
            "pretrained_model_name_or_path to the base instead."
        )
    return family.pipelines.get(flavour, family.pipeline)


def _stock_pipeline(name: str) -> str:
    """The class name of the stock pipeline that one of our families, or a name with or without `Pipeline`, means."""
    plain = _plain(name)
    if plain in CLASSES:
        return CLASSES[plain].pipeline
    letters = plain.replace("_", "").removesuffix("pipeline")
    for pipeline in dir(diffusers):
        if pipeline.endswith("Pipeline") and pipeline.removesuffix("Pipeline").replace("_", "").lower() == letters:
            return pipeline
    raise TwinFlowConfigError(
        f"model_family={name!r} is not a model family. It must be one of {', '.join(sorted(FAMILIES))}, or the name of a "
        "stock pipeline, such as 'cogview4'."
    )


def _plain(name: str) -> str:
    plain = re.sub(r"\W", "_", name.strip().lower())
    return SPELLINGS.get(plain, plain)
