"""The base models that TwinFlow can train, found by their pipeline's class name."""

from inspect import Parameter, signature

from diffusers import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from .aura_flow import AuraFlowFamily
from .base import Family
from .chroma import ChromaFamily
from .flux import FluxFamily
from .flux2 import Flux2Family
from .ltx_video import LTXVideoFamily
from .lumina2 import Lumina2Family
from .pixart_sigma import PixArtSigmaFamily
from .qwen_image import QwenImageFamily
from .qwen_image_edit import QwenImageEditFamily
from .qwen_image_edit_plus import QwenImageEditPlusFamily
from .sana import SanaFamily
from .scheduler_kind import is_flow_matching
from .stable_diffusion import StableDiffusionFamily
from .stable_diffusion_3 import StableDiffusion3Family
from .stable_diffusion_xl import StableDiffusionXLFamily
from .wan import WanFamily
from .z_image import ZImageFamily

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        StableDiffusion3Family(),
        FluxFamily(),
        Flux2Family(),
        QwenImageFamily(),
        QwenImageEditFamily(),
        QwenImageEditPlusFamily(),
        ZImageFamily(),
        ChromaFamily(),
        SanaFamily(),
        Lumina2Family(),
        AuraFlowFamily(),
        WanFamily(),
        LTXVideoFamily(),
        StableDiffusionFamily(),
        StableDiffusionXLFamily(),
        PixArtSigmaFamily(),
    )
}


def family_of(pipeline: DiffusionPipeline | type | str, name: str | None = None) -> Family:
    """The family of a pipeline, its class or its class name.

    A pipeline of a class that no family names, such as an image-to-image or an inpainting pipeline, is of the family
    that has the same model and the most components in common.

    Args:
        pipeline: what to look for.
        name: the family to prefer if several fit such a pipeline equally well.

    Raises:
        TwinFlowConfigError: if no family has that pipeline class and no such model.
    """
    if isinstance(pipeline, str):
        names = {pipeline}
    else:
        cls = pipeline if isinstance(pipeline, type) else type(pipeline)
        names = {base.__name__ for base in cls.__mro__}
    for family in FAMILIES.values():
        if family.pipeline_class.__name__ in names:
            return family
    if isinstance(pipeline, DiffusionPipeline) and (families := _families_of_components(pipeline)):
        return next((family for family in families if family.name == name), families[0])
    supported = ", ".join(family.pipeline_class.__name__ for family in FAMILIES.values())
    raise TwinFlowConfigError(
        f"{' / '.join(sorted(names)[:1])} has no family here, so its transformer has no timestep_sign support: "
        f"use a model of one of these pipelines: {supported}."
    )


def _families_of_components(pipeline: DiffusionPipeline) -> list[Family]:
    """The families with the pipeline's model whose own pipelines can be made from its components, using most of them."""
    components = pipeline.components
    used = {}
    for family in FAMILIES.values():
        parameters = signature(family.pipeline_class.__init__).parameters.values()
        needed = {parameter.name for parameter in parameters if parameter.default is Parameter.empty} - {"self"}
        if needed <= components.keys() and family.is_of(components[family.component_name]):
            used.setdefault(len(needed), []).append(family)
    return used[max(used)] if used else []


__all__ = ["FAMILIES", "Family", "family_of", "is_flow_matching"]
