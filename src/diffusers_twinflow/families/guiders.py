"""Guiders among the components of a pipeline, which evaluate the denoiser several times per step."""

from copy import copy

from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.pipelines.pipeline_utils import DiffusionPipeline


def turn_guiders_off(pipeline: DiffusionPipeline) -> None:
    """Give a pipeline copies of its guiders that evaluate the denoiser once per step."""
    for name, guider in pipeline.components.items():
        if isinstance(guider, BaseGuidance):
            off = copy(guider)
            off.disable()
            setattr(pipeline, name, off)
