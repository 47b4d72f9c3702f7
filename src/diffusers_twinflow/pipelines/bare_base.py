"""Call the base of a TwinFlow LoRA with the copy of the weights that the LoRA uses."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..families import family_of
from ..hub.merging import separate_lora
from ..hub.stock_pipelines import assemble
from ..hub.unloading import STATE_NAME
from ..models import without_targets
from .pipeline_twinflow import TwinFlowPipeline


def base_options(pipeline: TwinFlowPipeline, guidance: float | None) -> dict[str, Any]:
    """Return arguments for the base's call: the guidance, if given, and the prompt length of the distilled model."""
    options = {} if guidance is None else {"guidance_scale": guidance}
    length = pipeline.twinflow_config.max_sequence_length
    if length and "max_sequence_length" in inspect.signature(family_of(pipeline).pipeline_class.__call__).parameters:
        options["max_sequence_length"] = length
    return options


@contextmanager
def bare_base(pipeline: TwinFlowPipeline) -> Iterator[DiffusionPipeline]:
    """Yield the stock pipeline without the LoRA. Do not call `pipeline` inside the `with` block."""
    family = family_of(pipeline)
    denoisers, scheduler = family.denoisers(pipeline).values(), getattr(pipeline, STATE_NAME).scheduler
    base = assemble(family, pipeline, pipeline.components | {"scheduler": scheduler})
    base.set_progress_bar_config(disable=True)
    with separate_lora(pipeline):
        for denoiser in denoisers:
            denoiser.disable_lora()
        try:
            with without_targets(*denoisers):
                yield base
        finally:
            for denoiser in denoisers:
                denoiser.enable_lora()
