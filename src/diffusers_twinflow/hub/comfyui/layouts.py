"""ComfyUI's layer names for each diffusers class, found by loading LoRAs into ComfyUI 0.33."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...configuration import TwinFlowConfigError

PLAIN = "transformer."
NATIVE = "diffusion_model."


@dataclass(frozen=True)
class Fused:
    """Several diffusers layers that are one layer in ComfyUI, stacked along the output dimension.

    Attributes:
        name: ComfyUI's name of the layer.
        parts: the layers of diffusers in the order of their rows.
        rows: number of rows of each part, from the model's configuration.
    """

    name: str
    parts: tuple[str, ...]
    rows: Callable[[Mapping[str, Any]], tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """How ComfyUI reads a LoRA of one diffusers class. A `*` in a name is the number of a block.

    Attributes:
        plain: layers that ComfyUI reads under their diffusers name.
        native: ComfyUI's own names of layers that it does not read under their diffusers name.
        fused: layers that are part of a larger layer, and that ComfyUI does not split by itself.
        unet: layers that ComfyUI reads with the names of kohya's scripts.
    """

    plain: tuple[str, ...] = ()
    native: Mapping[str, str] = field(default_factory=dict)
    fused: tuple[Fused, ...] = ()
    unet: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Return whether ComfyUI reads a plain diffusers LoRA of this class without changes."""
        return not (self.native or self.fused or self.unet)

    def key(self, module: str) -> str | None:
        """Return the prefix of a layer's LoRA keys, or `None` if ComfyUI has no name for this layer alone."""
        if _match(self.plain, module):
            return PLAIN + module
        if _match(self.unet, module):
            return "lora_unet_" + module.replace(".", "_")
        if found := _match(self.native, module):
            pattern, numbers = found
            return NATIVE + _fill(self.native[pattern], numbers)
        return None

    def fused_part(self, module: str) -> tuple[str, Fused, int] | None:
        """Return the key prefix of the fused layer that contains `module`, that layer, and the index of `module` in it."""
        for fused in self.fused:
            if found := _match(fused.parts, module):
                pattern, numbers = found
                return NATIVE + _fill(fused.name, numbers), fused, fused.parts.index(pattern)
        return None


def layout_of(class_name: str) -> Layout:
    """Return how ComfyUI reads a LoRA of a diffusers class.

    Raises:
        TwinFlowConfigError: if ComfyUI does not support the model, or its layer names in ComfyUI are unknown.
    """
    if class_name in LAYOUTS:
        return LAYOUTS[class_name]
    reason = WITHOUT_LAYOUT.get(class_name, "its layer names in ComfyUI are not in our table")
    raise TwinFlowConfigError(
        f"A LoRA of {class_name} cannot be exported for ComfyUI: {reason}. Export it as a plain diffusers LoRA instead. "
        f"Classes with a ComfyUI export: {', '.join(sorted(LAYOUTS))}."
    )


def _match(patterns: Iterable[str], module: str) -> tuple[str, tuple[str, ...]] | None:
    for pattern in patterns:
        if found := re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)"), module):
            return pattern, found.groups()
    return None


def _fill(pattern: str, numbers: tuple[str, ...]) -> str:
    pieces = pattern.split("*")
    return pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))


def _in(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" for name in names)


def _moved(prefix: str, native_prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": f"{native_prefix}.{native}" for name, native in names.items()}


MLP = ("linear_1", "linear_2")
QKV = ("to_q", "to_k", "to_v")
JOINT_ATTENTION = (*QKV, "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FEED_FORWARD = ("net.0.proj", "net.2")

_FLUX_BLOCKS = (
    *_in("transformer_blocks.*.attn", *JOINT_ATTENTION),
    *_in("transformer_blocks.*.ff", *FEED_FORWARD),
    *_in("transformer_blocks.*.ff_context", *FEED_FORWARD),
    *_in("single_transformer_blocks.*.attn", *QKV),
    *_in("single_transformer_blocks.*", "proj_mlp", "proj_out"),
)

_UNET_TRANSFORMER = (
    "proj_in",
    "proj_out",
    *_in("transformer_blocks.*.attn1", *QKV, "to_out.0"),
    *_in("transformer_blocks.*.attn2", *QKV, "to_out.0"),
    *_in("transformer_blocks.*.ff", *FEED_FORWARD),
)
_UNET_RESNET = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")


def _z_image_block(block: str) -> tuple[str, ...]:
    return (
        *_in(f"{block}.*.attention", *QKV, "to_out.0"),
        *_in(f"{block}.*.feed_forward", "w1", "w2", "w3"),
    )


def _lumina_rows(config: Mapping[str, Any]) -> tuple[int, int, int]:
    head = config["hidden_size"] // config["num_attention_heads"]
    return config["hidden_size"], config["num_kv_heads"] * head, config["num_kv_heads"] * head


_LUMINA_BLOCKS = ("noise_refiner", "context_refiner", "layers")

LAYOUTS: dict[str, Layout] = {
    "AuraFlowTransformer2DModel": Layout(
        plain=(
            "pos_embed.proj",
            "context_embedder",
            *_in("time_step_proj", *MLP),
            *_in("joint_transformer_blocks.*", "norm1.linear", "norm1_context.linear"),
            *_in("joint_transformer_blocks.*.attn", *JOINT_ATTENTION),
            *_in("joint_transformer_blocks.*.ff", *MLP, "out_projection"),
            *_in("joint_transformer_blocks.*.ff_context", *MLP, "out_projection"),
            "single_transformer_blocks.*.norm1.linear",
            *_in("single_transformer_blocks.*.attn", *QKV, "to_out.0"),
            *_in("single_transformer_blocks.*.ff", *MLP, "out_projection"),
            "norm_out.linear",
            "proj_out",
        )
    ),
    "ChromaTransformer2DModel": Layout(
        plain=("context_embedder", "x_embedder", "proj_out", *_FLUX_BLOCKS),
        native=_moved(
            "distilled_guidance_layer",
            "distilled_guidance_layer",
            {
                "in_proj": "in_proj",
                "out_proj": "out_proj",
                "layers.*.linear_1": "layers.*.in_layer",
                "layers.*.linear_2": "layers.*.out_layer",
            },
        ),
    ),
    "Flux2Transformer2DModel": Layout(
        plain=(
            "context_embedder",
            "x_embedder",
            "norm_out.linear",
            "proj_out",
            *_in("transformer_blocks.*.attn", *JOINT_ATTENTION),
        ),
        native={
            **_moved(
                "time_guidance_embed.timestep_embedder", "time_in", {"linear_1": "in_layer", "linear_2": "out_layer"}
            ),
            **_moved(
                "time_guidance_embed.guidance_embedder",
                "guidance_in",
                {"linear_1": "in_layer", "linear_2": "out_layer"},
            ),
            **_moved("double_stream_modulation_img", "double_stream_modulation_img", {"linear": "lin"}),
            **_moved("double_stream_modulation_txt", "double_stream_modulation_txt", {"linear": "lin"}),
            **_moved("single_stream_modulation", "single_stream_modulation", {"linear": "lin"}),
            **_moved("transformer_blocks.*.ff", "double_blocks.*.img_mlp", {"linear_in": "0", "linear_out": "2"}),
            **_moved(
                "transformer_blocks.*.ff_context", "double_blocks.*.txt_mlp", {"linear_in": "0", "linear_out": "2"}
            ),
            **_moved(
                "single_transformer_blocks.*.attn",
                "single_blocks.*",
                {"to_qkv_mlp_proj": "linear1", "to_out": "linear2"},
            ),
        },
    ),
    "FluxTransformer2DModel": Layout(
        plain=(
            *_in("time_text_embed.timestep_embedder", *MLP),
            *_in("time_text_embed.guidance_embedder", *MLP),
            *_in("time_text_embed.text_embedder", *MLP),
            *_in("transformer_blocks.*", "norm1.linear", "norm1_context.linear"),
            "single_transformer_blocks.*.norm.linear",
            "context_embedder",
            "x_embedder",
            "norm_out.linear",
            "proj_out",
            *_FLUX_BLOCKS,
        )
    ),
    "LTXVideoTransformer3DModel": Layout(
        native={
            "proj_in": "patchify_proj",
            "proj_out": "proj_out",
            "time_embed.linear": "adaln_single.linear",
            **{f"caption_projection.{name}": f"caption_projection.{name}" for name in MLP},
            **{f"time_embed.emb.timestep_embedder.{n}": f"adaln_single.emb.timestep_embedder.{n}" for n in MLP},
            **{
                name: name
                for name in (
                    *_in("transformer_blocks.*.attn1", *QKV, "to_out.0"),
                    *_in("transformer_blocks.*.attn2", *QKV, "to_out.0"),
                    *_in("transformer_blocks.*.ff", *FEED_FORWARD),
                )
            },
        }
    ),
    "Lumina2Transformer2DModel": Layout(
        native={
            "x_embedder": "x_embedder",
            "time_caption_embed.caption_embedder.1": "cap_embedder.1",
            "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "norm_out.linear_1": "final_layer.adaLN_modulation.1",
            "norm_out.linear_2": "final_layer.linear",
            **{f"{block}.*.attn.to_out.0": f"{block}.*.attention.out" for block in _LUMINA_BLOCKS},
            **{
                f"{block}.*.feed_forward.linear_{i}": f"{block}.*.feed_forward.w{i}"
                for block in _LUMINA_BLOCKS
                for i in (1, 2, 3)
            },
            **{f"{block}.*.norm1.linear": f"{block}.*.adaLN_modulation.1" for block in ("noise_refiner", "layers")},
        },
        fused=tuple(
            Fused(f"{block}.*.attention.qkv", _in(f"{block}.*.attn", *QKV), _lumina_rows) for block in _LUMINA_BLOCKS
        ),
    ),
    "PixArtTransformer2DModel": Layout(
        plain=(
            "pos_embed.proj",
            "proj_out",
            "adaln_single.linear",
            *_in("adaln_single.emb.timestep_embedder", *MLP),
            *_in("adaln_single.emb.resolution_embedder", *MLP),
            *_in("adaln_single.emb.aspect_ratio_embedder", *MLP),
            *_in("caption_projection", *MLP),
            *_in("transformer_blocks.*.attn1", *QKV, "to_out.0"),
            *_in("transformer_blocks.*.attn2", *QKV, "to_out.0"),
            *_in("transformer_blocks.*.ff", *FEED_FORWARD),
        )
    ),
    "QwenImageTransformer2DModel": Layout(
        plain=(
            *_in("time_text_embed.timestep_embedder", *MLP),
            "img_in",
            "txt_in",
            *_in("transformer_blocks.*", "img_mod.1", "txt_mod.1"),
            *_in("transformer_blocks.*.attn", *JOINT_ATTENTION),
            *_in("transformer_blocks.*.img_mlp", *FEED_FORWARD),
            *_in("transformer_blocks.*.txt_mlp", *FEED_FORWARD),
            "norm_out.linear",
            "proj_out",
        )
    ),
    "SD3Transformer2DModel": Layout(
        plain=(
            "pos_embed.proj",
            "context_embedder",
            *_in("time_text_embed.timestep_embedder", *MLP),
            *_in("time_text_embed.text_embedder", *MLP),
            *_in("transformer_blocks.*", "norm1.linear", "norm1_context.linear"),
            *_in("transformer_blocks.*.attn", *JOINT_ATTENTION),
            *_in("transformer_blocks.*.attn2", *QKV, "to_out.0"),
            *_in("transformer_blocks.*.ff", *FEED_FORWARD),
            *_in("transformer_blocks.*.ff_context", *FEED_FORWARD),
            "norm_out.linear",
            "proj_out",
        )
    ),
    "UNet2DConditionModel": Layout(
        unet=(
            "conv_in",
            "conv_out",
            *_in("time_embedding", *MLP),
            *_in("add_embedding", *MLP),
            *_in("down_blocks.*.attentions.*", *_UNET_TRANSFORMER),
            *_in("mid_block.attentions.*", *_UNET_TRANSFORMER),
            *_in("up_blocks.*.attentions.*", *_UNET_TRANSFORMER),
            *_in("down_blocks.*.resnets.*", *_UNET_RESNET),
            *_in("mid_block.resnets.*", *_UNET_RESNET),
            *_in("up_blocks.*.resnets.*", *_UNET_RESNET),
            "down_blocks.*.downsamplers.0.conv",
            "up_blocks.*.upsamplers.0.conv",
        )
    ),
    "WanTransformer3DModel": Layout(
        native={
            "patch_embedding": "patch_embedding",
            **_moved("condition_embedder.time_embedder", "time_embedding", {"linear_1": "0", "linear_2": "2"}),
            **_moved("condition_embedder.text_embedder", "text_embedding", {"linear_1": "0", "linear_2": "2"}),
            "condition_embedder.time_proj": "time_projection.1",
            **_moved("blocks.*.attn1", "blocks.*.self_attn", {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}),
            **_moved(
                "blocks.*.attn2", "blocks.*.cross_attn", {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
            ),
            **_moved("blocks.*.ffn", "blocks.*.ffn", {"net.0.proj": "0", "net.2": "2"}),
            "proj_out": "head.head",
        }
    ),
    "ZImageTransformer2DModel": Layout(
        plain=(
            "all_x_embedder.2-1",
            "all_final_layer.2-1.linear",
            "all_final_layer.2-1.adaLN_modulation.1",
            "cap_embedder.1",
            *_in("t_embedder.mlp", "0", "2"),
            *(name for block in _LUMINA_BLOCKS for name in _z_image_block(block)),
            "noise_refiner.*.adaLN_modulation.0",
            "layers.*.adaLN_modulation.0",
        )
    ),
}

WITHOUT_LAYOUT: dict[str, str] = {
    "SanaTransformer2DModel": "ComfyUI has no Sana model",
}
