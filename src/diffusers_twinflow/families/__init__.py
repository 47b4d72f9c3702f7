"""The base models that TwinFlow can train, found by their pipeline's class name."""

from diffusers import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from .aura_flow import AuraFlowFamily
from .base import Family
from .ltx_video import LTXVideoFamily
from .lumina2 import Lumina2Family
from .sana import SanaFamily
from .stable_diffusion_3 import StableDiffusion3Family
from .wan import WanFamily

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        StableDiffusion3Family(),
        SanaFamily(),
        Lumina2Family(),
        AuraFlowFamily(),
        WanFamily(),
        LTXVideoFamily(),
    )
}


def family_of(pipeline: DiffusionPipeline | type | str) -> Family:
    """The family of a pipeline, its class or its class name.

    Raises:
        TwinFlowConfigError: where no family has that pipeline class.
    """
    if isinstance(pipeline, str):
        names = {pipeline}
    else:
        cls = pipeline if isinstance(pipeline, type) else type(pipeline)
        names = {base.__name__ for base in cls.__mro__}
    for family in FAMILIES.values():
        if family.pipeline_class.__name__ in names:
            return family
    supported = ", ".join(family.pipeline_class.__name__ for family in FAMILIES.values())
    raise TwinFlowConfigError(
        f"{' / '.join(sorted(names)[:1])} has no family here, so its transformer has no timestep_sign support: "
        f"use a model of one of these pipelines: {supported}."
    )


def is_flow_matching(scheduler_class_name: str, scheduler_config: dict) -> bool:
    """Whether a pipeline with this scheduler predicts a flow-matching velocity."""
    flow_prediction = scheduler_config.get("prediction_type") in ("flow_prediction", "flow_matching")
    return "FlowMatch" in scheduler_class_name or flow_prediction


__all__ = ["FAMILIES", "Family", "family_of", "is_flow_matching"]
