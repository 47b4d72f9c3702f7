"""What is known of the calls of stock pipelines: their denoisers, and the arguments that need a certain value."""

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..models import TWINFLOW_CLASSES

COMPONENTS = ("transformer", "unet")
DENOISERS = {"Wan22VaceModularPipeline": "WanVACETransformer3DModel"}
"""Denoisers of pipelines whose blocks name another class than their checkpoints have."""
NOT_FLOW = ("UNet2DConditionModel", "PixArtTransformer2DModel")
GUIDANCE_OFF = {
    "guidance_scale": 1.0,
    "true_cfg_scale": 1.0,
    "distilled_guidance_scale": 1.0,
    "audio_guidance_scale": 1.0,
    "image_guidance_scale": 1.0,
    "img_guidance_scale": 1.0,
    "pag_scale": 0.0,
    "stg_scale": 0.0,
    "audio_stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_modality_scale": 1.0,
}
"""Values that make a stock call one evaluation per step. Embedded guidance is 1, as in the other families."""
GUIDES_ABOVE_ZERO = ("ZImageTransformer2DModel", "Krea2Transformer2DModel")
DATA_MINUS_NOISE = ("HiDreamImageTransformer2DModel", "NucleusMoEImageTransformer2DModel")
"""Denoisers whose time falls from noise to data and that predict data minus noise: their pipelines negate it."""
FURTHER_OUTPUTS = {"Cosmos3OmniTransformer": 2}
"""How many outputs besides the sample denoisers return, which are `None` without sound and actions."""
IN_SECTIONS = "it generates a video in sections, and only the inputs of the first section can be captured"
REFUSED = {
    "AnyFlowFARPipeline": IN_SECTIONS,
    "HeliosPipeline": IN_SECTIONS,
    "HunyuanVideoFramepackPipeline": IN_SECTIONS,
    "HeliosModularPipeline": IN_SECTIONS,
    "HeliosPyramidDistilledModularPipeline": IN_SECTIONS,
    "HeliosPyramidModularPipeline": IN_SECTIONS,
    "PRXPixelPipeline": "it predicts the image and not a velocity",
}
"""Pipelines whose calls can be captured, but cannot be trained that way, with the reason."""
STATELESS = {"use_kv_cache": False}
"""Arguments that keep a stock call from passing its denoiser a cache."""
TAKE_IMAGES = {
    "CogView4ControlPipeline": "control_image",
    "FluxControlNetPipeline": "control_image",
    "FluxControlPipeline": "control_image",
    "FluxKontextModularPipeline": "image",
    "FluxKontextPipeline": "image",
    "LongCatImageEditPipeline": "image",
    "QwenImageControlNetPipeline": "control_image",
    "SanaControlNetPipeline": "control_image",
    "StableDiffusion3ControlNetPipeline": "control_image",
    "ZImageControlNetPipeline": "control_image",
}
"""Pipelines whose call takes an image without requiring it in its signature, and the argument."""
MASKS = ("mask_image", "control_mask")
"""Arguments for the part of an image that a stock call fills."""
ONE_PROMPT = ("Flux3ModularPipeline", "Flux3DistilledModularPipeline")
"""Pipelines whose call takes one prompt."""
READS_VALUES = (
    "BriaFibo2Transformer2DModel",
    "GlmImageTransformer2DModel",
    "HiDreamImageTransformer2DModel",
    "HunyuanVideo15Transformer3DModel",
    "HunyuanVideoFramepackTransformer3DModel",
    "Lumina2Transformer2DModel",
    "MochiTransformer3DModel",
    "NucleusMoEImageTransformer2DModel",
    "OmniGenTransformer2DModel",
    "QwenImage21Transformer2DModel",
    "WanAnimate2Transformer3DModel",
)
"""Denoisers that read numbers on the host in each forward, such as the lengths of prompts or the tokens per expert."""
TAKE_SIGMAS = ("AnyFlowPipeline", "HunyuanImagePipeline")
OUTPUT_NAMES = {"Kandinsky5T2IPipeline": "image"}
NOT_FOR_EMPTY = {"complex_human_instruction": None}
"""Arguments with which stock calls add nothing to the empty prompt, as for classifier-free guidance."""


def denoiser_of(pipeline_class: type[DiffusionPipeline]) -> tuple[str, str] | None:
    """The component of a pipeline class that denoises and its class name; `None` if the table has no such class."""
    if pipeline_class.__name__ in DENOISERS:
        return COMPONENTS[0], DENOISERS[pipeline_class.__name__]
    types = pipeline_class._get_signature_types()
    for component in COMPONENTS:
        for cls in types.get(component, ()):
            if cls.__name__ in TWINFLOW_CLASSES and cls.__name__ not in NOT_FLOW:
                return component, cls.__name__
    return None
