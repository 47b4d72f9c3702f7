"""A table of how each stock class embeds its timestep and in which unit. TwinFlow classes are created from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers.models.modeling_utils import ModelMixin
    from torch import nn


@dataclass(frozen=True)
class NativeTarget:
    """A target time that the stock class already takes and that its checkpoints are trained for.

    Attributes:
        argument: name of the argument in the stock forward.
        config_key: the config entry that says whether a model takes it; `None` if every model of the class does.
    """

    argument: str
    config_key: str | None = None

    def is_in(self, transformer: Any) -> bool:
        """Whether a transformer takes this target time."""
        return self.config_key is None or bool(transformer.config[self.config_key])


@dataclass(frozen=True)
class TimestepEmbedders:
    """Where and how one stock class embeds its timestep.

    Attributes:
        paths: the modules whose output carries the timestep. Paths that a model does not have are ignored.
        output_layer: the layer inside each module that sets its width; empty for the module itself.
        at_noise, at_data: values of the class's `timestep` at pure noise and at data.
        config_scale: config entry by which both values are multiplied.
        argument: name of the timestep in the stock forward.
        rows: "repeat" if a sample's embedding is added to all of its rows, "first" if only the first B rows belong to
            the batch and rows for other times follow.
        call: which call of the module within one forward carries the timestep, counted from 0; -1 for no call, `None`
            for all calls.
        element: index in the module's output, if that is a tuple.
        packed: whether a forward takes one sample, with one timestep per patch.
        native_target: the target time that the class already takes, if any.
        max_timestep_dim: maximum number of dimensions of `timestep`; `None` for any.
        projection: converts times to the embedder's input. ".name" is the module `name` next to the embedder, "name" is
            a module of the model, and a function takes the model and the times. `None` if the embedder takes times.
        projection_scale: number, or name of the config entry, by which the forward multiplies `timestep` before the
            projection.
    """

    paths: tuple[str, ...]
    output_layer: str = "linear_2"
    at_noise: float = 1000.0
    at_data: float = 0.0
    config_scale: str | None = None
    argument: str = "timestep"
    rows: str = "repeat"
    call: int | Callable[[ModelMixin, Mapping[str, Any]], int] | None = None
    element: int | None = None
    packed: bool = False
    native_target: NativeTarget | None = None
    max_timestep_dim: int | None = None
    projection: str | Callable[[ModelMixin, torch.Tensor], torch.Tensor] | None = ".time_proj"
    projection_scale: float | str = 1.0


def takes_target(model: nn.Module) -> bool:
    """Whether a stock or TwinFlow transformer takes a target time that its stock class has."""
    names = (cls.__name__ for cls in type(model).__mro__)
    rule = next((TIMESTEP_EMBEDDERS[name] for name in names if name in TIMESTEP_EMBEDDERS), None)
    return rule is not None and rule.native_target is not None and rule.native_target.is_in(model)


def _at(*paths: str, **rule: Any) -> TimestepEmbedders:
    return TimestepEmbedders(paths, **rule)


def _unit(*paths: str, **rule: Any) -> TimestepEmbedders:
    """Return a rule for times from 0 at data to 1 at noise."""
    return TimestepEmbedders(paths, at_noise=1.0, **rule)


def _reversed(*paths: str, **rule: Any) -> TimestepEmbedders:
    """Return a rule for times from 0 at noise to 1 at data."""
    return TimestepEmbedders(paths, at_noise=0.0, at_data=1.0, **rule)


def _helios_call(transformer: ModelMixin, arguments: Mapping[str, Any]) -> int:
    """Return the call of Helios, which embeds the time of its history first, even if there is no history."""
    return int(transformer.zero_history_timestep)


def _wan_animate2_call(transformer: ModelMixin, arguments: Mapping[str, Any]) -> int:
    """Return the call of Wan Animate 2, whose pass over the reference has a fixed time."""
    return -1 if arguments["kv_cache_mode"] == "extract" else 0


def _prx_projection(transformer: ModelMixin, times: torch.Tensor) -> torch.Tensor:
    """Project times as PRX does, which has no module for it."""
    from diffusers.models.embeddings import get_timestep_embedding

    options = {"max_period": transformer.time_max_period, "scale": transformer.time_factor}
    return get_timestep_embedding(times, 256, flip_sin_to_cos=True, downscale_freq_shift=0.0, **options)


def _krea2_projection(transformer: ModelMixin, times: torch.Tensor) -> tuple[torch.Tensor, torch.dtype]:
    """Return the input of Krea 2's embedder, which also takes the dtype for its computation."""
    return times, transformer.time_embed.linear_1.weight.dtype


def _sana_wm_projection(transformer: ModelMixin, times: torch.Tensor) -> torch.Tensor:
    """Project times as SANA-WM does, which embeds whole timesteps only."""
    return transformer.time_proj(times.long().float())


_WAN = "condition_embedder.time_embedder"
_REFINER = "context_embedder.time_text_embed.timestep_embedder"
_SANA = ("time_embed.emb.timestep_embedder", "time_embed.timestep_embedder")

TIMESTEP_EMBEDDERS: dict[str, TimestepEmbedders] = {
    "AceStepTransformer1DModel": _unit(
        "time_embed.linear_2", output_layer="", native_target=NativeTarget("timestep_r")
    ),
    "AnyFlowFARTransformer3DModel": _at(
        _WAN, call=0, native_target=NativeTarget("r_timestep"), projection=".timesteps_proj"
    ),
    "AnyFlowTransformer3DModel": _at(_WAN, native_target=NativeTarget("r_timestep"), projection=".timesteps_proj"),
    "AuraFlowTransformer2DModel": _unit("time_step_proj", projection=".time_step_embed"),
    "BriaFibo2Transformer2DModel": _unit(
        "t_embedder", output_layer="mlp.2", call=0, projection=None, projection_scale="t_scale"
    ),
    "BriaFiboTransformer2DModel": _at("time_embed.timestep_embedder"),
    "BriaTransformer2DModel": _at("time_embed.timestep_embedder"),
    "ChromaTransformer2DModel": _unit(
        "distilled_guidance_layer.in_proj", output_layer="", projection="time_text_embed", projection_scale=1000.0
    ),
    "ChronoEditTransformer3DModel": _at(_WAN, projection=".timesteps_proj"),
    "CogView4Transformer2DModel": _at("time_condition_embed.timestep_embedder"),
    "Cosmos3OmniTransformer": _at(
        "time_embedder", argument="vision_timesteps", packed=True, projection_scale="timestep_scale"
    ),
    "CosmosTransformer3DModel": _unit("time_embed", output_layer="norm", element=1),
    "DreamLiteUNetModel": _at("time_embedding"),
    "EasyAnimateTransformer3DModel": _at("time_embedding"),
    "ErnieImageTransformer2DModel": _at("time_embedding"),
    "Flux2Transformer2DModel": _unit("time_guidance_embed.timestep_embedder", call=0, projection_scale=1000.0),
    "Flux3Transformer2DModel": _unit(
        "timestep_embedder", call=0, native_target=NativeTarget("target_timestep", "flow_map"), projection_scale=1000.0
    ),
    "FluxTransformer2DModel": _unit("time_text_embed.timestep_embedder", projection_scale=1000.0),
    "GlmImageTransformer2DModel": _at("time_condition_embed.timestep_embedder", at_noise=999.0, at_data=-1.0),
    "HeliosTransformer3DModel": _at(_WAN, call=_helios_call, projection=".timesteps_proj"),
    "HiDreamImageTransformer2DModel": _at("t_embedder.timestep_embedder", argument="timesteps"),
    "HunyuanImageTransformer2DModel": _at(
        "time_guidance_embed.timestep_embedder", _REFINER, native_target=NativeTarget("timestep_r", "use_meanflow")
    ),
    "HunyuanVideo15Transformer3DModel": _at(
        "time_embed.timestep_embedder", _REFINER, native_target=NativeTarget("timestep_r", "use_meanflow")
    ),
    "HunyuanVideoFramepackTransformer3DModel": _at("time_text_embed.timestep_embedder", _REFINER, call=0),
    "HunyuanVideoTransformer3DModel": _at("time_text_embed.timestep_embedder", _REFINER, call=0),
    "Ideogram4Transformer2DModel": _reversed("t_embedding", output_layer="mlp_out", projection=None),
    "JoyImageEditPlusTransformer3DModel": _at(_WAN, projection=".timesteps_proj"),
    "JoyImageEditTransformer3DModel": _at(_WAN, projection=".timesteps_proj"),
    "Kandinsky5Transformer3DModel": _at("time_embeddings", output_layer="out_layer", projection=None),
    "Kandinsky6SRTransformer3DModel": _at("time_embeddings.timestep_embedder"),
    "Kandinsky6Transformer3DModel": _at(
        "video_time_embeddings.timestep_embedder", "audio_time_embeddings.timestep_embedder"
    ),
    "Krea2Transformer2DModel": _unit("time_embed", projection=_krea2_projection),
    "LTX2VideoTransformer3DModel": _at(
        "time_embed.emb.timestep_embedder",
        "audio_time_embed.emb.timestep_embedder",
        "av_cross_attn_video_scale_shift.emb.timestep_embedder",
        "av_cross_attn_audio_scale_shift.emb.timestep_embedder",
        "av_cross_attn_video_a2v_gate.emb.timestep_embedder",
        "av_cross_attn_audio_v2a_gate.emb.timestep_embedder",
    ),
    "LTXVideoTransformer3DModel": _at("time_embed.emb.timestep_embedder"),
    "LongCatAudioDiTTransformer": _reversed("time_embed", output_layer="time_mlp.2", projection=None),
    "LongCatImageTransformer2DModel": _unit("time_embed.timestep_embedder", projection_scale=1000.0),
    "Lumina2Transformer2DModel": _reversed("time_caption_embed.timestep_embedder"),
    "LuminaNextDiT2DModel": _reversed("time_caption_embed.timestep_embedder"),
    "MiniMaxMusic3Transformer1DModel": _reversed("time_embed"),
    "MochiTransformer3DModel": _at("time_embed.timestep_embedder", at_noise=0.0, at_data=1000.0),
    "MotifVideoTransformer3DModel": _at("time_text_embed.timestep_embedder"),
    "NucleusMoEImageTransformer2DModel": _unit("time_text_embed.norm", output_layer=""),
    "OmniGenTransformer2DModel": _reversed("time_token", "t_embedder"),
    "OvisImageTransformer2DModel": _unit("timestep_embedder", projection_scale=1000.0),
    "PixArtTransformer2DModel": _at("adaln_single.emb.timestep_embedder"),
    "PRXTransformer2DModel": _unit("time_in", output_layer="out_layer", projection=_prx_projection),
    "QwenImage21Transformer2DModel": _unit("time_text_embed.timestep_embedder", rows="first"),
    "QwenImageTransformer2DModel": _unit("time_text_embed.timestep_embedder", rows="first"),
    "SD3Transformer2DModel": _at("time_text_embed.timestep_embedder"),
    "SanaTransformer2DModel": _at(*_SANA, config_scale="timestep_scale"),
    "SanaVideoTransformer3DModel": _at(*_SANA),
    "SanaWMTransformer3DModel": _at("t_embedder", projection=_sana_wm_projection),
    "SkyReelsV2Transformer3DModel": _at(_WAN, max_timestep_dim=1, projection=".timesteps_proj"),
    "StableAudio3DiTModel": _unit("to_timestep_embed", output_layer="2", projection=".timestep_features"),
    "UNet2DConditionModel": _at("time_embedding"),
    "WanAnimate2Transformer3DModel": _at(
        "time_embedding", output_layer="2", call=_wan_animate2_call, projection=".timesteps_proj"
    ),
    "WanAnimateTransformer3DModel": _at(_WAN, projection=".timesteps_proj"),
    "WanTransformer3DModel": _at(_WAN, projection=".timesteps_proj"),
    "WanVACETransformer3DModel": _at(_WAN, projection=".timesteps_proj"),
    "ZImageTransformer2DModel": _reversed(
        "t_embedder", output_layer="mlp.2", argument="t", call=0, projection=None, projection_scale="t_scale"
    ),
}

REFUSED: dict[str, str] = {
    "MiniMaxH3Transformer3DModel": "its timestep lists the distinct times of one packed sequence that all samples "
    "share, so a sign or a target cannot belong to one sample",
}
