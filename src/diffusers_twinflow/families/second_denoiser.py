"""Pipelines with a second denoiser for low noise, such as Wan 2.2 14B."""

from collections.abc import Sequence
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..models import uncompiled

BOUNDARY = "boundary_ratio"
SECOND = "transformer_2"


def second_of(pipeline: DiffusionPipeline) -> ModelMixin | None:
    """Return the denoiser that a pipeline uses at low noise; `None` if it uses one denoiser at all times.

    Raises:
        TwinFlowConfigError: if the pipeline needs a second denoiser but has none.
    """
    boundary, second = pipeline.config.get(BOUNDARY), getattr(pipeline, SECOND, None)
    if boundary is None:
        return None
    if second is None:
        raise TwinFlowConfigError(
            f"{BOUNDARY}={boundary} uses {SECOND} for steps with low noise, but the pipeline has none. Load the pipeline "
            f"with its {SECOND}, or with {BOUNDARY}=None to use one denoiser at all times."
        )
    return uncompiled(second)


def options_without_second(names: Sequence[str], denoisers: Sequence[str] | None) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that load only the wanted denoisers.

    Args:
        names: the components of a pipeline class that denoise.
        denoisers: the wanted ones; `None` for all that the base has.

    Raises:
        TwinFlowConfigError: if the pipeline cannot denoise with these alone.
    """
    if denoisers is None or set(denoisers) == set(names):
        return {}
    if set(denoisers) != {names[0]}:
        choices = " or ".join([names[0], *([" ".join(names)] if len(names) > 1 else [])])
        raise TwinFlowConfigError(f"denoisers={' '.join(denoisers)} is not valid for this base: use {choices}.")
    return {SECOND: None, BOUNDARY: None}
