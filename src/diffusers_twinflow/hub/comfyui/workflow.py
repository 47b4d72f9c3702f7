"""Build a ComfyUI workflow that samples a TwinFlow LoRA on its sampling grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...configuration import TwinFlowConfigError

Node = dict[str, Any]
Link = list[str | int]

SAMPLERS = {1.0: "lcm", 0.0: "euler"}


@dataclass(frozen=True)
class Recipe:
    """The ComfyUI nodes that one model family needs.

    Attributes:
        loaders: file names by the input that takes them, as in ComfyUI's examples.
        text_encoder: type of the text encoder files; `None` if the checkpoint includes its text encoders.
        latent: node that makes the empty latent.
        width, height: size of the image or video in pixels.
        frames: number of frames; `None` for images.
        frame_rate: frames per second.
        frame_rate_conditioning: whether the frame rate is an input of the model.
        guidance: value of the embedded guidance; `None` if the model has no embedded guidance.
        encode: node that encodes the prompt, and its input for the prompt.
        encode_options: other inputs of the prompt's node.
        reference_image: input of the prompt's node that takes the image to edit; `None` if the family edits no images.
        is_diffusion: whether the base is a diffusion model, for which ComfyUI uses a different unit of noise levels.
    """

    loaders: Mapping[str, str]
    text_encoder: str | None = None
    latent: str = "EmptySD3LatentImage"
    width: int = 1024
    height: int = 1024
    frames: int | None = None
    frame_rate: float = 0.0
    frame_rate_conditioning: bool = False
    guidance: float | None = None
    encode: tuple[str, str] = ("CLIPTextEncode", "text")
    encode_options: Mapping[str, Any] = field(default_factory=dict)
    reference_image: str | None = None
    is_diffusion: bool = False


def _separate(unet: str, clip: str, vae: str) -> dict[str, str]:
    return {"unet_name": unet, "clip_name": clip, "vae_name": vae}


T5 = "t5xxl_fp16.safetensors"
QWEN_ENCODER, QWEN_VAE = "qwen_2.5_vl_7b.safetensors", "qwen_image_vae.safetensors"

RECIPES: dict[str, Recipe] = {
    "aura_flow": Recipe({"ckpt_name": "aura_flow_0.3.safetensors"}),
    "chroma": Recipe(_separate("Chroma1-HD.safetensors", T5, "ae.safetensors"), "chroma"),
    "flux": Recipe(
        {
            "unet_name": "flux1-dev.safetensors",
            "clip_name1": "clip_l.safetensors",
            "clip_name2": T5,
            "vae_name": "ae.safetensors",
        },
        "flux",
        guidance=1.0,
    ),
    "flux2": Recipe(
        _separate("flux2-dev.safetensors", "mistral_3_small_flux2_bf16.safetensors", "flux2-vae.safetensors"),
        "flux2",
        latent="EmptyFlux2LatentImage",
        guidance=1.0,
    ),
    "ltx_video": Recipe(
        {"ckpt_name": "ltx-video-2b-v0.9.5.safetensors", "clip_name": T5},
        "ltxv",
        latent="EmptyLTXVLatentVideo",
        width=704,
        height=512,
        frames=121,
        frame_rate=25.0,
        frame_rate_conditioning=True,
    ),
    "lumina2": Recipe(
        {"ckpt_name": "lumina_2.safetensors"},
        encode=("CLIPTextEncodeLumina2", "user_prompt"),
        encode_options={"system_prompt": "superior"},
    ),
    "pixart_sigma": Recipe(
        _separate("PixArt-Sigma-XL-2-1024-MS.safetensors", T5, "sdxl_vae.safetensors"),
        "pixart",
        latent="EmptyLatentImage",
        is_diffusion=True,
    ),
    "qwen_image": Recipe(_separate("qwen_image_bf16.safetensors", QWEN_ENCODER, QWEN_VAE), "qwen_image"),
    "qwen_image_edit": Recipe(
        _separate("qwen_image_edit_bf16.safetensors", QWEN_ENCODER, QWEN_VAE),
        "qwen_image",
        encode=("TextEncodeQwenImageEdit", "prompt"),
        reference_image="image",
    ),
    "qwen_image_edit_plus": Recipe(
        _separate("qwen_image_edit_2509_bf16.safetensors", QWEN_ENCODER, QWEN_VAE),
        "qwen_image",
        encode=("TextEncodeQwenImageEditPlus", "prompt"),
        reference_image="image1",
    ),
    "stable_diffusion": Recipe(
        {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"},
        latent="EmptyLatentImage",
        width=512,
        height=512,
        is_diffusion=True,
    ),
    "stable_diffusion_3": Recipe(
        {
            "ckpt_name": "sd3.5_medium.safetensors",
            "clip_name1": "clip_l.safetensors",
            "clip_name2": "clip_g.safetensors",
            "clip_name3": T5,
        },
        "sd3",
    ),
    "stable_diffusion_xl": Recipe(
        {"ckpt_name": "sd_xl_base_1.0.safetensors"}, latent="EmptyLatentImage", is_diffusion=True
    ),
    "wan": Recipe(
        _separate("wan2.1_t2v_1.3B_bf16.safetensors", "umt5_xxl_fp16.safetensors", "wan_2.1_vae.safetensors"),
        "wan",
        latent="EmptyHunyuanLatentVideo",
        width=832,
        height=480,
        frames=81,
        frame_rate=16.0,
    ),
    "z_image": Recipe(_separate("z_image_bf16.safetensors", "qwen_3_4b.safetensors", "ae.safetensors"), "lumina2"),
}

WITHOUT_RECIPE: dict[str, str] = {"sana": "ComfyUI has no Sana model"}


def comfyui_workflow(
    family_name: str,
    sigmas: Sequence[float],
    lora_file: str,
    prompt: str,
    *,
    stochastic_ratio: float = 1.0,
    seed: int = 0,
    files: Mapping[str, str] | None = None,
    width: int | None = None,
    height: int | None = None,
    frames: int | None = None,
    reference_image: str = "example.png",
    flow_matching: bool | None = None,
) -> dict[str, Node]:
    """Build the workflow of a model family in ComfyUI's API format. Open it with "Load" in ComfyUI.

    It evaluates the model once per step, without CFG. ComfyUI uses the sigmas unchanged: a model's shift only affects
    schedules that ComfyUI computes itself.

    Args:
        family_name: name of the model family, such as "flux".
        sigmas: noise levels of the steps in [0, 1], in decreasing order, with or without the final 0.
        lora_file: name of the LoRA in ComfyUI's folder `models/loras`.
        stochastic_ratio: 1 draws new noise at each step, 0 draws none. ComfyUI has no sampler for values in between.
        files: model files by the input that takes them, such as `{"unet_name": "my-model.safetensors"}`. Inputs that
            you leave out use the file names of ComfyUI's examples.
        width, height, frames: size in pixels and number of frames. Defaults to the family's usual size.
        reference_image: file in ComfyUI's folder `input`, for a family that edits an image.
        flow_matching: whether a base of a diffusion family was trained with flow matching. Defaults to the kind of the
            family's published base.

    Returns:
        The nodes by id. Write them with `json.dump`.

    Raises:
        TwinFlowConfigError: if ComfyUI cannot run the family, the sigmas or the stochastic ratio.
    """
    recipe = _recipe_of(family_name)
    if stochastic_ratio not in SAMPLERS:
        raise TwinFlowConfigError(
            f"stochastic_ratio={stochastic_ratio} has no sampler in ComfyUI. Use 1 (new noise at each step) or 0 (none)."
        )
    if frames is not None and recipe.frames is None:
        raise TwinFlowConfigError(f"frames={frames} is not valid for {family_name}, which makes images. Leave it out.")
    is_flow = not recipe.is_diffusion if flow_matching is None else flow_matching
    if recipe.is_diffusion is False and not is_flow:
        raise TwinFlowConfigError(
            f"flow_matching=False is not valid for {family_name}, which is a flow-matching model. Leave it out."
        )
    names = _file_names(recipe, files or {}, family_name)
    graph = _Graph()
    model, clip, vae = _load(graph, recipe, names)
    model = graph.add("LoraLoaderModelOnly", "TwinFlow LoRA", model=model, lora_name=lora_file, strength_model=1.0)
    if recipe.is_diffusion and is_flow:
        model = graph.add("ModelSamplingSD3", "Sample as a flow", model=model, shift=1.0)
    condition = _encode(graph, recipe, clip, vae, prompt, reference_image)
    size = {"width": width or recipe.width, "height": height or recipe.height}
    if recipe.frames is not None:
        size["length"] = frames or recipe.frames
    latent = graph.add(
        "SamplerCustomAdvanced",
        f"{len(_steps(sigmas))} steps",
        noise=graph.add("RandomNoise", "Noise", noise_seed=seed),
        guider=graph.add("BasicGuider", "No CFG", model=model, conditioning=condition),
        sampler=graph.add("KSamplerSelect", "Sampler", sampler_name=SAMPLERS[stochastic_ratio]),
        sigmas=graph.add("ManualSigmas", "TwinFlow sigmas", sigmas=_sigma_text(sigmas, is_flow)),
        latent_image=graph.add(recipe.latent, "Size", **size, batch_size=1),
    )
    images = graph.add("VAEDecode", "Decode", samples=latent, vae=vae)
    if recipe.frames is None:
        graph.add("SaveImage", "Save", images=images, filename_prefix="TwinFlow")
    else:
        video = graph.add("CreateVideo", "Video", images=images, fps=recipe.frame_rate)
        graph.add("SaveVideo", "Save", video=video, filename_prefix="video/TwinFlow", format="auto", codec="auto")
    return graph.nodes


class _Graph:
    """Nodes in the order in which they are added; an input is a value or the output of a node."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def add(self, class_type: str, title: str, **inputs: Any) -> Link:
        """Add a node and return its first output."""
        number = str(len(self.nodes) + 1)
        self.nodes[number] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}
        return [number, 0]


def _recipe_of(family_name: str) -> Recipe:
    if family_name in RECIPES:
        return RECIPES[family_name]
    reason = WITHOUT_RECIPE.get(family_name, "we have no workflow for it")
    raise TwinFlowConfigError(
        f"No ComfyUI workflow can be written for {family_name}: {reason}. Families with one: {', '.join(sorted(RECIPES))}."
    )


def _file_names(recipe: Recipe, files: Mapping[str, str], family_name: str) -> dict[str, str]:
    if unknown := sorted(files.keys() - recipe.loaders.keys()):
        raise TwinFlowConfigError(
            f"files has no input '{unknown[0]}' for {family_name}. Its inputs: {', '.join(recipe.loaders)}."
        )
    return {**recipe.loaders, **files}


def _load(graph: _Graph, recipe: Recipe, names: Mapping[str, str]) -> tuple[Link, Link, Link]:
    """Add the nodes that load the model, its text encoder and its autoencoder."""
    clip: Link | None = None
    if "ckpt_name" in names:
        model = graph.add("CheckpointLoaderSimple", "Base model", ckpt_name=names["ckpt_name"])
        clip, vae = [model[0], 1], [model[0], 2]
    else:
        model = graph.add("UNETLoader", "Base model", unet_name=names["unet_name"], weight_dtype="default")
        vae = graph.add("VAELoader", "Autoencoder", vae_name=names["vae_name"])
    if recipe.text_encoder is not None:
        encoders = {name: file for name, file in names.items() if name.startswith("clip_name")}
        loader = {1: "CLIPLoader", 2: "DualCLIPLoader", 3: "TripleCLIPLoader"}[len(encoders)]
        typed = {} if len(encoders) == 3 else {"type": recipe.text_encoder}
        clip = graph.add(loader, "Text encoder", **encoders, **typed)
    if clip is None:
        raise ValueError(f"the recipe loads no text encoder: {recipe}")
    return model, clip, vae


def _encode(graph: _Graph, recipe: Recipe, clip: Link, vae: Link, prompt: str, reference_image: str) -> Link:
    """Add the nodes that encode the prompt, and return the condition."""
    node, argument = recipe.encode
    inputs = {argument: prompt, "clip": clip, **recipe.encode_options}
    if recipe.reference_image is not None:
        image = graph.add("LoadImage", "Image to edit", image=reference_image)
        inputs |= {recipe.reference_image: image, "vae": vae}
    condition = graph.add(node, "Prompt", **inputs)
    if recipe.guidance is not None:
        condition = graph.add("FluxGuidance", "Embedded guidance", conditioning=condition, guidance=recipe.guidance)
    if recipe.frame_rate_conditioning:
        condition = graph.add(
            "LTXVConditioning", "Frame rate", positive=condition, negative=condition, frame_rate=recipe.frame_rate
        )
    return condition


def _steps(sigmas: Sequence[float]) -> list[float]:
    """Return the sigmas without the final 0."""
    steps = [float(sigma) for sigma in sigmas]
    return steps[:-1] if steps and steps[-1] == 0 else steps


def _sigma_text(sigmas: Sequence[float], is_flow: bool) -> str:
    """Write the sigmas as the node reads them: decimal numbers that end with 0.

    For a diffusion model they are converted to ComfyUI's noise level `sigma / (1 - sigma)`, which has the same
    signal-to-noise ratio.

    Raises:
        TwinFlowConfigError: if the sigmas do not decrease from at most 1 to above 0.
    """
    steps = _steps(sigmas)
    falls = all(before > after for before, after in zip(steps, steps[1:], strict=False))
    if not steps or not falls or not 0 < steps[-1] <= steps[0] <= 1:
        raise TwinFlowConfigError(
            f"sigmas={list(sigmas)} are not valid noise levels. Pass at least one value in (0, 1], in decreasing order."
        )
    if not is_flow:
        if steps[0] == 1:
            raise TwinFlowConfigError(
                "sigmas start at 1, which is an infinite noise level for a diffusion model in ComfyUI. Use the sigmas of "
                "TwinFlowScheduler, which start at the model's largest noise level."
            )
        steps = [sigma / (1 - sigma) for sigma in steps]
    return ", ".join(f"{sigma:.9f}".rstrip("0").rstrip(".") for sigma in (*steps, 0.0))
