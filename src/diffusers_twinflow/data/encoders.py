"""Find the encoders of a pipeline and move them between devices."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

SAMPLED_VALUES = 8
VAE_FACTORS = (
    "vae_scale_factor",
    "vae_spatial_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
)
PROCESSORS = ("image_processor", "video_processor")


def encoder_modules(pipeline: DiffusionPipeline, denoisers: Collection[str]) -> dict[str, torch.nn.Module]:
    """Return every network of a pipeline except the denoisers, by component name."""
    return {
        name: component
        for name, component in pipeline.components.items()
        if isinstance(component, torch.nn.Module) and name not in denoisers
    }


def size_multiple(pipeline: DiffusionPipeline, denoiser: torch.nn.Module) -> int:
    """Return the number that image sides must be multiples of, in pixels: the autoencoder's factor times the patch size."""
    patch = getattr(denoiser.config, "patch_size", None) or 1
    factor = next(getattr(pipeline, name) for name in VAE_FACTORS if hasattr(pipeline, name))
    processors = (getattr(pipeline, name, None) for name in PROCESSORS)
    processor = next((each for each in processors if isinstance(each, VaeImageProcessor)), None)
    processed = processor.config.vae_scale_factor if processor else 1
    return max(factor * (patch if isinstance(patch, int) else patch[-1]), processed)


@contextmanager
def moved_to(modules: Iterable[torch.nn.Module], device: torch.device | str) -> Iterator[None]:
    """Move modules to `device` inside the `with` block, and to the CPU afterwards."""
    modules = list(modules)
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module in modules:
            module.to("cpu")
        if torch.device(device).type != "cpu":
            torch.get_device_module(device).empty_cache()


@contextmanager
def seeded(*keys: str) -> Iterator[None]:
    """Seed the random numbers inside the `with` block from `keys`, and restore the generators afterwards."""
    seed = int.from_bytes(hashlib.sha256("\n".join(keys).encode()).digest()[:8], "big")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    devices = [torch.accelerator.current_device_index()] if accelerator else []
    with torch.random.fork_rng(devices, device_type=accelerator.type if accelerator else "cuda"):
        torch.manual_seed(seed)
        yield


def weights_identity(module: torch.nn.Module) -> str:
    """Return a short hash of a network's configuration, dtypes and a few values of each weight."""
    digest = hashlib.sha256(type(module).__name__.encode())
    config = getattr(module, "config", None)
    if config is not None:
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        kept = {name: value for name, value in values.items() if name not in ("_name_or_path", "name_or_path")}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().reshape(-1)
        chosen = flat[:: max(1, len(flat) // SAMPLED_VALUES)].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {chosen.tolist()}".encode())
    return digest.hexdigest()[:16]
