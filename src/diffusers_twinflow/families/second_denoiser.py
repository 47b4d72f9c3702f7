"""Bases with a second transformer for low noise, such as Wan 2.2 14B: the first is trained and used at all times."""

from collections.abc import Mapping
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging

from ..configuration import TwinFlowConfigError

logger = logging.get_logger(__name__)

BOUNDARY = "boundary_ratio"
SECOND = "transformer_2"


def load_first_alone(base: str, index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that leave the second transformer out, with a warning.

    Args:
        base: name of the base, for the warning.
        index: contents of the base's `model_index.json`.
    """
    if index.get(BOUNDARY) is not None:
        logger.warning(f"'{base}' is loaded without its {SECOND}, because TwinFlow uses transformer at all times.")
    return {SECOND: None, BOUNDARY: None}


def check_first_alone(pipeline: DiffusionPipeline) -> None:
    """Check that a pipeline has no second transformer.

    Raises:
        TwinFlowConfigError: if the pipeline would use a second transformer at low noise.
    """
    if getattr(pipeline, SECOND, None) is not None or pipeline.config.get(BOUNDARY) is not None:
        raise TwinFlowConfigError(
            f"{BOUNDARY}={pipeline.config.get(BOUNDARY)} uses {SECOND} for steps with low noise, but it is not trained. "
            f"Load the pipeline with {SECOND}=None and {BOUNDARY}=None."
        )
