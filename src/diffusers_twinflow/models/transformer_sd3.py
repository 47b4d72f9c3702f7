from diffusers import SD3Transformer2DModel

from .modeling_twinflow import TwinFlowTransformerMixin


class TwinFlowSD3Transformer2DModel(TwinFlowTransformerMixin, SD3Transformer2DModel):
    """[`~diffusers.SD3Transformer2DModel`] with a sign and a target timestep; `timestep` is in 0..1000."""

    _timestep_embedder = "time_text_embed.timestep_embedder"
