"""Tiny models twice: as diffusers builds them, and as a ComfyUI checkout does. Nothing here imports ComfyUI by itself."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.comfyui import comfyui_lora

NODE_MODULES = ("custom_sampler", "flux", "hunyuan", "lt", "lumina2", "model_advanced", "qwen", "sd3", "video")
LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)


def load_comfyui(checkout: str) -> SimpleNamespace:
    """The parts of a ComfyUI checkout that the tests call, on the CPU."""
    if checkout not in sys.path:
        sys.path.append(checkout)
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = arguments.use_pytorch_cross_attention = True
    names = ("lora", "lora_convert", "model_base", "supported_models", "samplers")
    return SimpleNamespace(**{name: importlib.import_module(f"comfy.{name}") for name in names})


def load_nodes() -> dict[str, type]:
    """The node classes of the checkout that is loaded, by name."""
    found = dict(importlib.import_module("nodes").NODE_CLASS_MAPPINGS)
    for name in NODE_MODULES:
        module = importlib.import_module(f"comfy_extras.nodes_{name}")
        found |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        found |= {name: value for name, value in vars(module).items() if hasattr(value, "define_schema")}
    return found


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@dataclass(frozen=True)
class Pair:
    """One model in both packages.

    Attributes:
        family: whose velocity the model has.
        class_name, config: the diffusers model.
        model, supported: names of ComfyUI's model class and of its settings.
        native: ComfyUI's configuration.
        others: native names of parameters that are not the weights of layers, by patterns of their diffusers names.
        shape: of one latent.
        condition: what the family's velocity is conditioned on.
        arguments: the same for ComfyUI.
        lift: whether ComfyUI's latents have a frame axis of one frame.
        scheduler: options of the noise schedule of a diffusion model.
    """

    family: str
    class_name: str
    config: Mapping[str, Any]
    model: str
    supported: str
    native: Mapping[str, Any]
    others: Mapping[str, str]
    shape: tuple[int, ...]
    condition: Callable[[], dict[str, torch.Tensor]]
    arguments: Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, Any]] = lambda native, condition: {}
    lift: bool = False
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    @property
    def component(self) -> str:
        return FAMILIES[self.family].component_name

    @property
    def is_diffusion(self) -> bool:
        return bool(self.scheduler)

    def build(self) -> nn.Module:
        """The diffusers model with every parameter random."""
        model = getattr(diffusers, self.class_name)(**self.config).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                numbers = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim > 1:
                    parameter.copy_(numbers / parameter.shape[1:].numel() ** 0.5)
                else:
                    parameter.copy_((not name.endswith("bias")) + 0.1 * numbers)
        return model

    def build_native(self, comfyui: SimpleNamespace) -> nn.Module:
        """ComfyUI's model with every parameter not a number, so that a forgotten one shows."""
        settings = getattr(comfyui.supported_models, self.supported)({**self.native, "dtype": torch.float32})
        model = getattr(comfyui.model_base, self.model)(settings)
        with torch.no_grad():
            for parameter in model.diffusion_model.parameters():
                parameter.fill_(float("nan"))
        return model

    def velocity(self, model: nn.Module, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Of the diffusers model, as its family calls it."""
        scheduler = DDIMScheduler(**self.scheduler) if self.is_diffusion else FlowMatchEulerDiscreteScheduler()
        bound = FAMILIES[self.family].bind(SimpleNamespace(scheduler=scheduler, vae_scale_factor=8, config={}))
        with torch.no_grad():
            return bound.velocity(model)(x_t, t, None, None, self.condition())

    def native_velocity(self, model: nn.Module, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Of ComfyUI's model, from what its samplers see: its prediction of the data at a noise level."""
        condition = self.condition()
        times = t.view(-1, *[1] * (x_t.ndim - 1))
        point, level = (x_t / (1 - times), t / (1 - t)) if self.is_diffusion else (x_t, t)
        point = point.unsqueeze(2) if self.lift else point
        with torch.no_grad():
            data = model.apply_model(
                point, level, c_crossattn=condition["prompt_embeds"], **self.arguments(model, condition)
            )
        data = data.squeeze(2) if self.lift else data
        return (x_t - data) / times

    def point(self, native: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """A noisy latent per sample, and its times in [0, 1]; whole timesteps of a diffusion model."""
        t = torch.tensor([0.9, 0.4])
        if self.is_diffusion:
            levels = native.model_sampling.sigmas[torch.tensor([800, 300])]
            t = levels / (1 + levels)
        return noise(2, *self.shape), t


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}


def random_lora(pair: Pair, model: nn.Module, rank: int = 2) -> dict[str, torch.Tensor]:
    """A plain LoRA of every linear and convolution layer."""
    lora = {}
    for index, (name, layer) in enumerate(layers_of(model).items()):
        out, *inner = layer.weight.shape
        ones = [1] * (len(inner) - 1)
        lora[f"{pair.component}.{name}.lora_A.weight"] = noise(rank, *inner, seed=index)
        lora[f"{pair.component}.{name}.lora_B.weight"] = 0.1 * noise(out, rank, *ones, seed=index + 1)
    return lora


def whole_weights(pair: Pair, model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of every layer as a LoRA of full rank."""
    lora = {}
    for name, layer in layers_of(model).items():
        out, *inner = layer.weight.shape
        size = layer.weight[0].numel()
        lora[f"{pair.component}.{name}.lora_A.weight"] = torch.eye(size).reshape(size, *inner)
        lora[f"{pair.component}.{name}.lora_B.weight"] = layer.weight.detach().reshape(
            out, size, *[1] * (len(inner) - 1)
        )
    return lora


def merge(pair: Pair, model: nn.Module, lora: Mapping[str, torch.Tensor]) -> None:
    """Add a plain LoRA to the weights of a diffusers model."""
    with torch.no_grad():
        for name, layer in layers_of(model).items():
            down, up = (lora[f"{pair.component}.{name}.lora_{half}.weight"] for half in "AB")
            layer.weight += (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)


def apply(comfyui: SimpleNamespace, native: nn.Module, lora: dict[str, torch.Tensor], keep: bool = True) -> list[str]:
    """Load a LoRA as ComfyUI's loader does and add it to the weights.

    Args:
        keep: whether it is added to what is there, or to zero.

    Returns:
        names of the weights that it changed.
    """
    key_map = comfyui.lora.model_lora_keys_unet(native, {})
    lora = comfyui.lora_convert.convert_lora(lora)
    patches = comfyui.lora.load_lora(lora, key_map, log_missing=False)
    loaded = set().union(*(patch.loaded_keys for patch in patches.values()))
    assert not lora.keys() - loaded, f"ComfyUI skips {sorted(lora.keys() - loaded)[:5]}"
    weights = native.state_dict()
    changed = set()
    for target, patch in patches.items():
        name, offset, function = whole_target(target)
        if not keep and name not in changed:
            weights[name].zero_()
        changed.add(name)
        comfyui.lora.calculate_weight([(1.0, patch, 1.0, offset, function)], weights[name], name)
    return sorted(changed)


def whole_target(target: str | tuple) -> tuple:
    """The weight, the rows and the change of order that ComfyUI's key stands for."""
    target = (target,) if isinstance(target, str) else target
    return (*target, *[None] * (3 - len(target)))


def copy_weights(comfyui: SimpleNamespace, pair: Pair, model: nn.Module, native: nn.Module) -> None:
    """Give ComfyUI's model the parameters of the diffusers model: layers through the exported LoRA, others by name."""
    whole = comfyui_lora(whole_weights(pair, model), pair.class_name, model.config)
    placed = set(apply(comfyui, native, whole, keep=False))
    key_map, weights = comfyui.lora.model_lora_keys_unet(native, {}), native.state_dict()
    layer_weights = {f"{name}.weight" for name in layers_of(model)}
    for name, value in model.state_dict().items():
        if name in layer_weights:
            continue
        target = _bias_target(pair, model, name, key_map) or _other_target(pair, name)
        key, offset, function = whole_target(target)
        place = weights[key] if offset is None else weights[key].narrow(*offset)
        place.copy_((function or (lambda same: same))(value).view_as(place))
        placed.add(key)
    missing = {f"diffusion_model.{name}" for name, _ in native.diffusion_model.named_parameters()} - placed
    assert not missing, sorted(missing)[:5]


def _bias_target(pair: Pair, model: nn.Module, name: str, key_map: Mapping[str, Any]) -> tuple | None:
    layer = name.removesuffix(".bias")
    if layer == name or layer not in layers_of(model):
        return None
    halves = {f"{pair.component}.{layer}.lora_{half}.weight": torch.zeros(1, 1) for half in "AB"}
    key = next(iter(comfyui_lora(halves, pair.class_name, model.config))).rsplit(".", 2)[0]
    name, *rest = whole_target(key_map[key])
    return name.removesuffix(".weight") + ".bias", *rest


def _other_target(pair: Pair, name: str) -> tuple[str]:
    for pattern, native in pair.others.items():
        found = re.fullmatch(pattern, name)
        if found:
            return (f"diffusion_model.{found.expand(native)}",)
    raise AssertionError(f"{name} of {pair.class_name} has no native name in the test")


def embeds(length: int = 3, width: int = 8) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": noise(2, length, width, seed=5)}


def pooled(width: int = 8) -> dict[str, torch.Tensor]:
    return {**embeds(), "pooled_prompt_embeds": noise(2, width, seed=6)}


def masked(name: str = "prompt_attention_mask") -> dict[str, torch.Tensor]:
    return {**embeds(), name: torch.ones(2, 3, dtype=torch.bool)}


def _flux_norms() -> dict[str, str]:
    names = {}
    for short, long in (("q", "query"), ("k", "key")):
        names |= {
            rf"transformer_blocks\.(\d+)\.attn\.norm_{short}\.weight": rf"double_blocks.\1.img_attn.norm.{long}_norm.weight",
            rf"transformer_blocks\.(\d+)\.attn\.norm_added_{short}\.weight": (
                rf"double_blocks.\1.txt_attn.norm.{long}_norm.weight"
            ),
            rf"single_transformer_blocks\.(\d+)\.attn\.norm_{short}\.weight": rf"single_blocks.\1.norm.{long}_norm.weight",
        }
    return names


def _resnet(prefix: str, native: str) -> dict[str, str]:
    return {
        rf"{prefix}\.norm1\.(weight|bias)": rf"{native}.in_layers.0.\1",
        rf"{prefix}\.norm2\.(weight|bias)": rf"{native}.out_layers.0.\1",
    }


def _attention(prefix: str, native: str) -> dict[str, str]:
    return {
        rf"{prefix}\.norm\.(weight|bias)": rf"{native}.norm.\1",
        rf"{prefix}\.(transformer_blocks\.\d+\.norm\d\.(?:weight|bias))": rf"{native}.\1",
    }


ROPE = {"axes_dims_rope": [4, 2, 2]}
FLUX_LIKE = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
}
NATIVE_FLUX = {
    "context_in_dim": 8,
    "hidden_size": 16,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 2, 2],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "txt_ids_dims": [],
}
LUMINA_NORMS = {
    r"(.*\.)attn\.norm_([qk])\.weight": r"\1attention.\2_norm.weight",
    r"(.*)\.norm1\.norm\.weight": r"\1.attention_norm1.weight",
    r"(context_refiner\.\d+)\.norm1\.weight": r"\1.attention_norm1.weight",
    r"(.*)\.norm2\.weight": r"\1.attention_norm2.weight",
    r"(.*\.ffn_norm[12]\.weight)": r"\1",
    r"time_caption_embed\.caption_embedder\.0\.weight": "cap_embedder.0.weight",
}
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
}
NATIVE_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "context_dim": 8,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
}
UNET_RESNETS = {
    **_resnet(r"down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
    **_resnet(r"down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
    **_resnet(r"mid_block\.resnets\.0", "middle_block.0"),
    **_resnet(r"mid_block\.resnets\.1", "middle_block.2"),
    **_resnet(r"up_blocks\.0\.resnets\.0", "output_blocks.0.0"),
    **_resnet(r"up_blocks\.0\.resnets\.1", "output_blocks.1.0"),
    **_resnet(r"up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
    **_resnet(r"up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
    **_attention(r"mid_block\.attentions\.0", "middle_block.1"),
    r"conv_norm_out\.(weight|bias)": r"out.0.\1",
}
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

PAIRS: dict[str, Pair] = {
    "stable_diffusion_3": Pair(
        "stable_diffusion_3",
        "SD3Transformer2DModel",
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 64,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "caption_projection_dim": 128,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 4,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        "SD3",
        "SD3",
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 8,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 8, "out_features": 128},
            },
            "num_patches": 16,
            "pos_embed_max_size": 4,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "x_block_self_attn_layers": [0],
        },
        {
            r"pos_embed\.pos_embed": "pos_embed",
            r"transformer_blocks\.(\d+)\.(attn2?)\.norm_([qk])\.weight": r"joint_blocks.\1.x_block.\2.ln_\3.weight",
            r"transformer_blocks\.(\d+)\.attn\.norm_added_([qk])\.weight": (
                r"joint_blocks.\1.context_block.attn.ln_\2.weight"
            ),
        },
        (4, 8, 8),
        pooled,
        lambda native, condition: {"y": condition["pooled_prompt_embeds"]},
    ),
    "flux": Pair(
        "flux",
        "FluxTransformer2DModel",
        {**FLUX_LIKE, **ROPE, "pooled_projection_dim": 8, "guidance_embeds": True},
        "Flux",
        "Flux",
        {
            **NATIVE_FLUX,
            "image_model": "flux",
            "in_channels": 4,
            "out_channels": 4,
            "vec_in_dim": 8,
            "guidance_embed": True,
        },
        _flux_norms(),
        (4, 4, 6),
        pooled,
        lambda native, condition: {"y": condition["pooled_prompt_embeds"], "guidance": torch.ones(2)},
    ),
    "flux2": Pair(
        "flux2",
        "Flux2Transformer2DModel",
        {**FLUX_LIKE, "axes_dims_rope": [2, 2, 2, 2], "timestep_guidance_channels": 256},
        "Flux2",
        "Flux2",
        {
            **NATIVE_FLUX,
            "image_model": "flux2",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": None,
            "mlp_ratio": 3.0,
            "axes_dim": [2, 2, 2, 2],
            "theta": 2000,
            "patch_size": 1,
            "qkv_bias": False,
            "guidance_embed": True,
            "txt_ids_dims": [3],
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
        },
        _flux_norms(),
        (16, 4, 6),
        embeds,
        lambda native, condition: {"guidance": torch.ones(2)},
    ),
    "chroma": Pair(
        "chroma",
        "ChromaTransformer2DModel",
        {
            **FLUX_LIKE,
            **ROPE,
            "num_layers": 19,
            "num_single_layers": 38,
            "approximator_num_channels": 64,
            "approximator_hidden_dim": 8,
            "approximator_layers": 1,
        },
        "Chroma",
        "Chroma",
        {
            **NATIVE_FLUX,
            "depth": 19,
            "depth_single_blocks": 38,
            "image_model": "chroma",
            "in_channels": 16,
            "out_channels": 16,
            "in_dim": 64,
            "out_dim": 16,
            "hidden_dim": 8,
            "n_layers": 1,
            "vec_in_dim": None,
        },
        {
            **_flux_norms(),
            r"distilled_guidance_layer\.norms\.(\d+)\.weight": r"distilled_guidance_layer.norms.\1.weight",
        },
        (4, 4, 6),
        lambda: masked() | {"prompt_attention_mask": torch.ones(2, 3)},
        lambda native, condition: {"guidance": torch.zeros(2)},
    ),
    "qwen_image": Pair(
        "qwen_image",
        "QwenImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "axes_dims_rope": (4, 2, 2),
        },
        "QwenImage",
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "axes_dims_rope": (4, 2, 2),
        },
        {
            r"(txt_norm\.weight)": r"\1",
            r"(transformer_blocks\.\d+\.attn\.norm_(?:added_)?[qk]\.weight)": r"\1",
        },
        (4, 4, 8),
        lambda: masked("prompt_embeds_mask"),
        lift=True,
    ),
    "z_image": Pair(
        "z_image",
        "ZImageTransformer2DModel",
        {
            "in_channels": 4,
            "dim": 1024,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 8,
            "n_kv_heads": 8,
            "cap_feat_dim": 8,
            "axes_dims": [32, 48, 48],
            "axes_lens": [96, 16, 16],
        },
        "Lumina2",
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 4,
            "dim": 1024,
            "cap_feat_dim": 8,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "qk_norm": True,
            "n_heads": 8,
            "n_kv_heads": 8,
            "axes_dims": [32, 48, 48],
            "axes_lens": [96, 16, 16],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8 / 3,
            "multiple_of": 1,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
        {
            r"(.*\.attention)\.norm_([qk])\.weight": r"\1.\2_norm.weight",
            r"(.*\.(?:attention|ffn)_norm[12]\.weight)": r"\1",
            r"(cap_embedder\.0\.weight)": r"\1",
            r"([xc].*_pad_token)": r"\1",
        },
        (4, 8, 8),
        lambda: {**embeds(32), "prompt_embeds_mask": torch.ones(2, 32, dtype=torch.bool)},
        lambda native, condition: {"num_tokens": 32},
    ),
    "lumina2": Pair(
        "lumina2",
        "Lumina2Transformer2DModel",
        {
            "sample_size": 4,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 1,
            "num_refiner_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 256,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (16, 16, 16),
            "cap_feat_dim": 8,
        },
        "Lumina2",
        "Lumina2",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 4,
            "dim": 32,
            "cap_feat_dim": 8,
            "n_layers": 1,
            "qk_norm": True,
            "n_heads": 4,
            "n_kv_heads": 2,
            "axes_dims": [4, 2, 2],
            "axes_lens": [16, 16, 16],
            "rope_theta": 10000.0,
            "ffn_dim_multiplier": 4.0,
        },
        LUMINA_NORMS,
        (4, 4, 8),
        masked,
        lambda native, condition: {"num_tokens": 3},
    ),
    "aura_flow": Pair(
        "aura_flow",
        "AuraFlowTransformer2DModel",
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_projection_dim": 16,
            "joint_attention_dim": 8,
            "pos_embed_max_size": 16,
        },
        "AuraFlow",
        "AuraFlow",
        {
            "max_seq": 16,
            "cond_seq_dim": 8,
            "n_double_layers": 1,
            "n_layers": 2,
            "dim": 16,
            "n_heads": 2,
            "global_conddim": 16,
        },
        {r"pos_embed\.pos_embed": "positional_encoding", r"(register_tokens)": r"\1"},
        (4, 8, 8),
        embeds,
    ),
    "wan": Pair(
        "wan",
        "WanTransformer3DModel",
        {
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 8,
            "freq_dim": 256,
            "ffn_dim": 32,
            "num_layers": 1,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
        },
        "WAN21",
        "WAN21_T2V",
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": 24,
            "out_dim": 4,
            "num_heads": 2,
            "ffn_dim": 32,
            "num_layers": 1,
            "patch_size": (1, 2, 2),
            "freq_dim": 256,
            "text_dim": 8,
            "window_size": (-1, -1),
            "qk_norm": True,
            "cross_attn_norm": True,
            "eps": 1e-6,
            "in_dim": 4,
        },
        {
            r"blocks\.(\d+)\.attn1\.norm_([qk])\.weight": r"blocks.\1.self_attn.norm_\2.weight",
            r"blocks\.(\d+)\.attn2\.norm_([qk])\.weight": r"blocks.\1.cross_attn.norm_\2.weight",
            r"blocks\.(\d+)\.norm2\.(weight|bias)": r"blocks.\1.norm3.\2",
            r"blocks\.(\d+)\.scale_shift_table": r"blocks.\1.modulation",
            r"scale_shift_table": "head.modulation",
        },
        (4, 2, 4, 6),
        embeds,
    ),
    "ltx_video": Pair(
        "ltx_video",
        "LTXVideoTransformer3DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "num_layers": 1,
            "caption_channels": 8,
        },
        "LTXV",
        "LTXV",
        {
            "image_model": "ltxv",
            "in_channels": 4,
            "cross_attention_dim": 16,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_channels": 8,
            "num_layers": 1,
        },
        {
            r"(.*attn[12])\.norm_([qk])\.weight": r"\1.\2_norm.weight",
            r"(.*scale_shift_table)": r"\1",
        },
        (4, 2, 2, 3),
        lambda: masked() | {"rope_interpolation_scale": torch.tensor([[8 / 25, 32.0, 32.0]] * 2)},
        lambda native, condition: {"attention_mask": condition["prompt_attention_mask"].long(), "frame_rate": 25},
    ),
    "pixart_sigma": Pair(
        "pixart_sigma",
        "PixArtTransformer2DModel",
        {
            "sample_size": 64,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "cross_attention_dim": 16,
            "caption_channels": 8,
            "use_additional_conditions": False,
            "interpolation_scale": 1,
        },
        "PixArt",
        "PixArtSigma",
        {
            "image_model": "pixart_sigma",
            "num_heads": 2,
            "patch_size": 2,
            "hidden_size": 16,
            "in_channels": 4,
            "depth": 1,
            "caption_channels": 8,
            "model_max_length": 3,
            "input_size": 64,
            "pe_interpolation": 1,
            "micro_condition": False,
        },
        {
            r"transformer_blocks\.(\d+)\.scale_shift_table": r"blocks.\1.scale_shift_table",
            r"scale_shift_table": "final_layer.scale_shift_table",
        },
        (4, 64, 64),
        masked,
        scheduler={"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    ),
    "stable_diffusion": Pair(
        "stable_diffusion",
        "UNet2DConditionModel",
        {
            **UNET,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 8,
        },
        "BaseModel",
        "SD15",
        {
            **NATIVE_UNET,
            "transformer_depth": [1, 0],
            "transformer_depth_output": [1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "use_linear_in_transformer": False,
        },
        {
            **UNET_RESNETS,
            **_attention(r"down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
            **_attention(r"up_blocks\.1\.attentions\.0", "output_blocks.2.1"),
            **_attention(r"up_blocks\.1\.attentions\.1", "output_blocks.3.1"),
        },
        (4, 8, 8),
        embeds,
        scheduler=SD_SCHEDULE,
    ),
    "stable_diffusion_xl": Pair(
        "stable_diffusion_xl",
        "UNet2DConditionModel",
        {
            **UNET,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (1, 1),
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 8 + 6 * 256,
        },
        "SDXL",
        "SDXL",
        {
            **NATIVE_UNET,
            "transformer_depth": [0, 2],
            "transformer_depth_output": [0, 0, 2, 2],
            "transformer_depth_middle": 2,
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": 8 + 6 * 256,
        },
        {
            **UNET_RESNETS,
            **_attention(r"down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
            **_attention(r"up_blocks\.0\.attentions\.0", "output_blocks.0.1"),
            **_attention(r"up_blocks\.0\.attentions\.1", "output_blocks.1.1"),
        },
        (4, 8, 8),
        pooled,
        lambda native, condition: {
            "y": native.encode_adm(pooled_output=condition["pooled_prompt_embeds"], width=64, height=64)
        },
        scheduler=SD_SCHEDULE,
    ),
}


def _with_reference() -> dict[str, torch.Tensor]:
    """With an image of even sides in tokens: ComfyUI places odd ones one token further than diffusers."""
    return {**masked("prompt_embeds_mask"), "reference_latents": noise(2, 4, 8, 4, seed=7)}


PAIRS |= {
    name: replace(
        PAIRS["qwen_image"],
        family=name,
        condition=_with_reference,
        arguments=lambda native, condition: {"ref_latents": [condition["reference_latents"].unsqueeze(2)]},
    )
    for name in ("qwen_image_edit", "qwen_image_edit_plus")
}
