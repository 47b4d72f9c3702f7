"""Guiders among the components of a pipeline, which evaluate the denoiser several times per step."""

from copy import copy

from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.pipelines.pipeline_utils import DiffusionPipeline


def turn_guiders_off(pipeline: DiffusionPipeline) -> dict[str, BaseGuidance]:
    """Give a pipeline copies of its guiders that evaluate the denoiser once per step. Return the guiders that it had."""
    guiders = {name: each for name, each in pipeline.components.items() if isinstance(each, BaseGuidance)}
    for name, guider in guiders.items():
        off = copy(guider)
        off.disable()
        setattr(pipeline, name, off)
    return guiders
