"""SimpleTuner's default values under our option names, and the base model of each of its flavours.

Recipes leave out options that have SimpleTuner's default, so these values are needed to train the same way.
"""

from dataclasses import dataclass, field

VERSION = "4.8.0"  # all values of this module come from this version

DEFAULTS = {
    "allow_tf32": True,
    "caption_dropout_probability": 0.1,
    "checkpoints_total_limit": 5,
    "gradient_checkpointing": True,
    "learning_rate": 4e-7,
    "lr_power": 0.8,
    "lr_scheduler": "constant_with_warmup",
    "max_grad_norm": 2.0,
    "mixed_precision": "bf16",
    "num_validation_images": 1,
    "resolution": 1024,
    "train_batch_size": 4,
    "train_type": "full",
    "validation_steps": 100,
}
LORA_DEFAULTS = {"lora_dropout": 0.1, "rank": 16}
OPTIMIZER_DEFAULTS = {
    "adamw": {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-6, "adam_weight_decay": 0.01},
    "prodigy": {
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "adam_epsilon": 1e-8,
        "adam_weight_decay": 0.0,
        "prodigy_use_bias_correction": False,
    },
}
EMA_DECAY = 0.995
NUM_TRAIN_EPOCHS = 1  # if the recipe has no max_train_steps

QUANTIZATIONS = {"int8-quanto": "torchao_int8", "int8-torchao": "torchao_int8", "nf4-bnb": "bnb_4bit"}

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


@dataclass(frozen=True)
class SimpleTunerFamily:
    """A model family of SimpleTuner that this package can train.

    Attributes:
        default: flavour of a recipe that does not name one.
        flavours: Hub id of the base of each flavour.
        lora_layers: layers that a LoRA adapts by default, except layers that exist only in fused projections.
        training_adapters: flavours for which SimpleTuner loads an additional LoRA on the base during training.
    """

    default: str
    flavours: dict[str, str]
    lora_layers: list[str] = field(default_factory=lambda: list(ATTENTION))
    training_adapters: tuple[str, ...] = ()


FAMILIES = {
    "sd3": SimpleTunerFamily(
        "medium",
        {"medium": "stabilityai/stable-diffusion-3.5-medium", "large": "stabilityai/stable-diffusion-3.5-large"},
    ),
    "flux": SimpleTunerFamily(
        "krea",
        {
            "dev": "black-forest-labs/FLUX.1-dev",
            "krea": "black-forest-labs/FLUX.1-Krea-dev",
            "schnell": "black-forest-labs/FLUX.1-schnell",
            "fluxbooru": "terminusresearch/fluxbooru-v0.3",
            "libreflux": "jimmycarter/LibreFlux-SimpleTuner",
        },
        lora_layers=FLUX_LORA_TARGETS["all"],
    ),
    "flux2": SimpleTunerFamily(
        "klein-9b",
        {
            "dev": "black-forest-labs/FLUX.2-dev",
            "klein-4b": "black-forest-labs/FLUX.2-klein-base-4B",
            "klein-9b": "black-forest-labs/FLUX.2-klein-base-9B",
        },
        lora_layers=[*(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj"))],
    ),
    "qwen_image": SimpleTunerFamily(
        "v2.0",
        {
            "v1.0": "Qwen/Qwen-Image",
            "v2.0": "Qwen/Qwen-Image-2512",
            "edit-v1": "Qwen/Qwen-Image-Edit",
            "edit-v2": "Qwen/Qwen-Image-Edit-2509",
            "edit-v2+": "Qwen/Qwen-Image-Edit-2509",
            "edit-v3": "Qwen/Qwen-Image-Edit-2511",
        },
    ),
    "z_image": SimpleTunerFamily(
        "turbo-ostris-v2",
        {
            "base": "Tongyi-MAI/Z-Image",
            "turbo": "Tongyi-MAI/Z-Image-Turbo",
            "turbo-ostris-v2": "Tongyi-MAI/Z-Image-Turbo",
        },
        training_adapters=("turbo", "turbo-ostris-v2"),
    ),
    "chroma": SimpleTunerFamily(
        "base",
        {
            "base": "lodestones/Chroma1-Base",
            "hd": "lodestones/Chroma1-HD",
            "flash": "lodestones/Chroma1-Flash",
        },
    ),
    "sana": SimpleTunerFamily(
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
    "lumina2": SimpleTunerFamily(
        "2.0", {"2.0": "Alpha-VLLM/Lumina-Image-2.0", "neta-lumina": "terminusresearch/neta-lumina-v1"}
    ),
    "auraflow": SimpleTunerFamily(
        "v0.3",
        {
            "pony": "purplesmartai/pony-v7-base",
            "v0.3": "terminusresearch/auraflow-v0.3",
            "v0.2": "fal/AuraFlow-v0.2",
            "v0.1": "fal/AuraFlow",
        },
        lora_layers=[*ATTENTION, *CONTEXT],
    ),
    "wan": SimpleTunerFamily(
        "t2v-480p-1.3b-2.1",
        {
            "t2v-480p-1.3b-2.1": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            "t2v-480p-14b-2.1": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
            "ti2v-5b-2.2": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        },
    ),
    "ltxvideo": SimpleTunerFamily("0.9.5", {"0.9.5": "Lightricks/LTX-Video-0.9.5", "0.9.0": "Lightricks/LTX-Video"}),
    "sd1x": SimpleTunerFamily(
        "dreamshaper",
        {
            "1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "1.4": "CompVis/stable-diffusion-v1-4",
            "dreamshaper": "Lykon/dreamshaper-8",
        },
    ),
    "sdxl": SimpleTunerFamily(
        "base-1.0",
        {
            "base-1.0": "stabilityai/stable-diffusion-xl-base-1.0",
            "base-0.9": "stabilityai/stable-diffusion-xl-base-0.9",
        },
    ),
    "pixart": SimpleTunerFamily(
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
FAMILY_NAMES = {
    "aura_flow": "auraflow",
    "ltx_video": "ltxvideo",
    "pixart_sigma": "pixart",
    "qwen_image_edit": "qwen_image",
    "stable_diffusion": "sd1x",
    "stable_diffusion_3": "sd3",
    "stable_diffusion_xl": "sdxl",
}


def family_name(name: str) -> str:
    """Return SimpleTuner's name of a model family from any spelling or from our name. Unknown names do not change."""
    plain = name.strip().lower().replace("-", "_")
    return FAMILY_NAMES.get(plain, plain)
