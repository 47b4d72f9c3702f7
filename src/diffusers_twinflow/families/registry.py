"""Find families by name or by pipeline. A family is imported when it is first used.

A flow pipeline without a family gets one that is derived from it. Its name is the pipeline's class name.
"""

import importlib
from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from typing import NamedTuple

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..installed_diffusers import absence, absent_from_diffusers
from .base import Family


class FamilyClasses(NamedTuple):
    """The class names of a family and of its stock classes. The module has the family's name.

    `from_picture` are pipelines with the same components that start from a noised image. Their model is trained from
    noise, as that of `pipeline`.
    """

    family: str
    pipeline: str
    denoiser: str
    from_picture: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, str]:
        """The stock classes without which the family cannot be used."""
        return self.pipeline, self.denoiser

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The pipeline and those that start from an image."""
        return (self.pipeline, *self.from_picture)


CLASSES = {
    "stable_diffusion_3": FamilyClasses(
        "StableDiffusion3Family",
        "StableDiffusion3Pipeline",
        "SD3Transformer2DModel",
        ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    ),
    "flux": FamilyClasses(
        "FluxFamily",
        "FluxPipeline",
        "FluxTransformer2DModel",
        ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    ),
    "flux2": FamilyClasses("Flux2Family", "Flux2Pipeline", "Flux2Transformer2DModel"),
    "qwen_image": FamilyClasses(
        "QwenImageFamily",
        "QwenImagePipeline",
        "QwenImageTransformer2DModel",
        ("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    ),
    "qwen_image_edit": FamilyClasses("QwenImageEditFamily", "QwenImageEditPipeline", "QwenImageTransformer2DModel"),
    "qwen_image_edit_plus": FamilyClasses(
        "QwenImageEditPlusFamily", "QwenImageEditPlusPipeline", "QwenImageTransformer2DModel"
    ),
    "z_image": FamilyClasses(
        "ZImageFamily",
        "ZImagePipeline",
        "ZImageTransformer2DModel",
        ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    ),
    "chroma": FamilyClasses(
        "ChromaFamily",
        "ChromaPipeline",
        "ChromaTransformer2DModel",
        ("ChromaImg2ImgPipeline",),
    ),
    "sana": FamilyClasses("SanaFamily", "SanaPipeline", "SanaTransformer2DModel"),
    "lumina2": FamilyClasses("Lumina2Family", "Lumina2Pipeline", "Lumina2Transformer2DModel"),
    "aura_flow": FamilyClasses("AuraFlowFamily", "AuraFlowPipeline", "AuraFlowTransformer2DModel"),
    "wan": FamilyClasses("WanFamily", "WanPipeline", "WanTransformer3DModel"),
    "ltx_video": FamilyClasses("LTXVideoFamily", "LTXPipeline", "LTXVideoTransformer3DModel"),
    "stable_diffusion": FamilyClasses("StableDiffusionFamily", "StableDiffusionPipeline", "UNet2DConditionModel"),
    "stable_diffusion_xl": FamilyClasses(
        "StableDiffusionXLFamily", "StableDiffusionXLPipeline", "UNet2DConditionModel"
    ),
    "pixart_sigma": FamilyClasses("PixArtSigmaFamily", "PixArtSigmaPipeline", "PixArtTransformer2DModel"),
}


class Families(Mapping[str, Family]):
    """Maps names to families. A family is listed even if the installed diffusers lacks its classes.

    Derived families are found by the class name of their pipeline. They are not listed.

    Raises:
        TwinFlowConfigError: on access, if the installed diffusers lacks the family's classes.
    """

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def __getitem__(self, name: str) -> Family:
        if name not in self._families and name not in CLASSES:
            derived = derived_family(name)
            if derived is None:
                raise KeyError(name)
            self._families.setdefault(name, derived)
        elif name not in self._families:
            for stock_name in absent_from_diffusers(CLASSES[name].needed):
                raise TwinFlowConfigError(f"The family {name} cannot be used: {absence(stock_name)}")
            module = importlib.import_module(f".{name}", __package__)
            self._families.setdefault(name, getattr(module, CLASSES[name].family)())
        return self._families[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in CLASSES or derived_family(name) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)

    def usable(self) -> list[Family]:
        """Return the families whose stock classes are in the installed diffusers."""
        return [self[name] for name, classes in CLASSES.items() if not absent_from_diffusers(classes.needed)]


FAMILIES = Families()


def derived_family(class_name: str) -> Family | None:
    """The family that is derived from a stock flow pipeline; `None` if there is no such pipeline, or it has one."""
    if not class_name.endswith("Pipeline") or any(class_name in classes.pipelines for classes in CLASSES.values()):
        return None
    from .captured import captured_family

    return captured_family(class_name)


def family_of_pipeline_class(*class_names: str) -> Family | None:
    """Return the family whose pipeline class has one of these names, or a derived one; `None` if there is none."""
    written = next(
        (FAMILIES[name] for name, classes in CLASSES.items() if not {*classes.pipelines}.isdisjoint(class_names)), None
    )
    return written or next((FAMILIES[name] for name in class_names if name in FAMILIES and name not in CLASSES), None)


def families_of_denoiser(class_name: str) -> list[Family]:
    """Return the families whose model has this stock class. A family that needs only a prompt comes first."""
    return [FAMILIES[name] for name, classes in CLASSES.items() if classes.denoiser == class_name]


def family_of(pipeline: DiffusionPipeline | type | str, name: str | None = None) -> Family:
    """Return the family of a pipeline.

    If no family has the pipeline's class, as for control pipelines, this is the family with the
    same model and the most components in common. If there is none, it is the family that is derived from the pipeline.

    Args:
        pipeline: a pipeline, its class or the name of its class.
        name: the family to prefer if several have equally many components in common.

    Raises:
        TwinFlowConfigError: if no family fits.
    """
    if isinstance(pipeline, str):
        names = [pipeline]
    else:
        cls = pipeline if isinstance(pipeline, type) else type(pipeline)
        names = [base.__name__ for base in cls.__mro__]
    if names == ["ModularPipeline"]:
        raise TwinFlowConfigError(
            "This modular pipeline has custom blocks, so we do not know how it calls its model. Use a pipeline of a class of "
            "diffusers, such as Flux3ModularPipeline."
        )
    if "ModularPipeline" in names:
        raise TwinFlowConfigError(
            f"{names[0]} is a modular pipeline. Convert it first with diffusers_twinflow.families.blocks_pipeline(pipe), which "
            "shares its components."
        )
    family = family_of_pipeline_class(*names)
    if family is not None and (family.name in CLASSES or family.name == name or family.is_modular):
        return family
    if isinstance(pipeline, DiffusionPipeline) and (families := _families_of_components(pipeline)):
        return next((family for family in families if family.name == name), families[0])
    if family is not None:
        return family
    supported = ", ".join(classes.pipeline for classes in CLASSES.values())
    raise TwinFlowConfigError(
        f"{names[0]} is not supported, because its transformer has no timestep_sign support. "
        f"Use a model of one of these pipelines: {supported}."
    )


def _families_of_components(pipeline: DiffusionPipeline) -> list[Family]:
    """Return the families with the same model whose pipeline can be built from most of the pipeline's components."""
    components = pipeline.components
    used: dict[int, list[Family]] = {}
    for family in FAMILIES.usable():
        parameters = signature(family.pipeline_class.__init__).parameters.values()
        needed = {parameter.name for parameter in parameters if parameter.default is Parameter.empty} - {"self"}
        has_all = needed | {family.component_name} <= components.keys()
        if has_all and family.is_of(components[family.component_name]):
            used.setdefault(len(needed), []).append(family)
    return used[max(used)] if used else []
