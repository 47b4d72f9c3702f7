"""Names that are about to move."""

from diffusers import DiffusionPipeline

from ..models import is_twinflow_transformer


def link_target_timesteps(pipeline: DiffusionPipeline) -> None:
    """Nothing to do: a transformer asks for the sampling call in progress."""


__all__ = ["is_twinflow_transformer", "link_target_timesteps"]
