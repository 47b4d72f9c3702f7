"""A tiny pipeline per family, and what every family must do.

A family passes by being listed in `CASES`: `test_families.py` runs the checks of this file on every case.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from diffusers_twinflow.diff2flow import Diff2Flow, flow_scale
from diffusers_twinflow.families import FAMILIES, Family
from diffusers_twinflow.families.encoding import as_pictures
from tests import tiny
from tests.families import tiny_diffusion, tiny_flux, tiny_images, tiny_qwen, tiny_videos, tiny_z_image
from tests.fresh_accelerator import fresh_accelerator

PROMPTS = ["a picture", "b"]
STEPS = 8
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True)
class Case:
    """A family and a tiny pipeline of its real classes, with text encoders and an autoencoder.

    Attributes:
        family_name: key of `FAMILIES`.
        build: makes the pipeline, the same at every call.
        resolution: pixels of a side; where no training is, pictures are twice as wide.
        max_sequence_length: tokens of an encoded prompt; more than those of `PROMPTS`.
        call: further arguments of the stock call.
        options: further arguments of the training script.
        label: tells cases of one family apart.
    """

    family_name: str
    build: Callable[[], DiffusionPipeline]
    resolution: int = 32
    max_sequence_length: int = 40
    call: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    label: str = ""

    @property
    def id(self) -> str:
        return f"{self.family_name} {self.label}".strip()

    @property
    def family(self) -> Family:
        return FAMILIES[self.family_name]

    @cached_property
    def pipeline(self) -> DiffusionPipeline:
        """The pipeline with weights that let time, prompt and every layer reach the output."""
        pipeline = self.build()
        pipeline.set_progress_bar_config(disable=True)
        fill_zeros(self.family.denoiser(pipeline))
        return pipeline

    def call_options(self) -> dict[str, Any]:
        size = self.family.size_options(self.resolution) | {"width": 2 * self.resolution}
        options = self.family.guidance_off | size | self.call
        if "max_sequence_length" in inspect.signature(type(self.pipeline).__call__).parameters:
            options["max_sequence_length"] = self.max_sequence_length
        return options

    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        return self.family.encode_prompts(
            self.pipeline, list(prompts), self.max_sequence_length, **self.references(len(prompts))
        )

    def references(self, count: int) -> dict[str, torch.Tensor]:
        """The argument of `encode_prompts` that holds a reference image a prompt."""
        return {"reference_images": self.pixels(count, seed=5)} if self.family.takes_reference_image else {}

    def pixels(self, count: int = 2, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (count, 3, self.resolution, 2 * self.resolution)
        return torch.randint(256, shape, generator=generator) / 127.5 - 1


VIDEO = {"num_frames": 1}
BRIDGED = ("--diff2flow_enabled", "--twinflow_allow_diff2flow")

CASES = [
    Case("stable_diffusion_3", tiny.sd3_pipeline, resolution=16, max_sequence_length=12),
    Case("flux", tiny_flux.schnell, label="schnell"),
    Case("flux", tiny_flux.dev, label="dev"),
    Case("flux2", tiny_flux.flux2, max_sequence_length=400),
    Case("qwen_image", tiny_qwen.qwen_image, resolution=16, max_sequence_length=192),
    Case("qwen_image_edit", tiny_qwen.qwen_image_edit, max_sequence_length=480),
    Case("qwen_image_edit_plus", tiny_qwen.qwen_image_edit_plus, max_sequence_length=480),
    Case("z_image", tiny_z_image.z_image),
    Case("chroma", tiny_flux.chroma),
    Case("sana", tiny_images.sana),
    Case("lumina2", tiny_images.lumina2, resolution=64, max_sequence_length=200),
    Case("aura_flow", tiny_images.aura_flow, resolution=64),
    Case("wan", tiny_videos.wan, call=VIDEO),
    Case("ltx_video", tiny_videos.ltx_video, call=VIDEO),
    Case("stable_diffusion", tiny_diffusion.stable_diffusion, max_sequence_length=16, options=BRIDGED),
    Case("stable_diffusion", tiny_diffusion.v_prediction, max_sequence_length=16, options=BRIDGED, label="v"),
    Case("stable_diffusion_xl", tiny_diffusion.stable_diffusion_xl, max_sequence_length=16, options=BRIDGED),
    Case("pixart_sigma", tiny_diffusion.pixart_sigma, options=BRIDGED),
]


@torch.no_grad()
def fill_zeros(model: torch.nn.Module) -> None:
    """Give random values to what is initialised to zero or not at all, such as gates and output layers."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any() or not (parameter.abs() < 1e3).all():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def stock_call(case: Case, latents: torch.Tensor, **options) -> torch.Tensor:
    """What the stock pipeline gives for `PROMPTS` from latents of its own layout, first element of its tuple."""
    options = {"return_dict": False} | case.call_options() | options
    if not case.family.takes_reference_image:
        return case.pipeline(prompt=list(PROMPTS), latents=latents, **options)[0]
    images = as_pictures(case.references(len(PROMPTS))["reference_images"])
    calls = zip(PROMPTS, images, latents.split(1))
    return torch.cat([case.pipeline(prompt=p, image=image, latents=x, **options)[0] for p, image, x in calls])


def noise_of(case: Case) -> torch.Tensor:
    """Noise in the family's canonical layout, a sample a prompt."""
    with torch.no_grad():
        latents = case.family.encode_images(case.pipeline, case.pixels(len(PROMPTS)))
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))


def grid(scheduler) -> tuple[float, torch.Tensor]:
    """Scale of the starting noise and the sigmas of the scheduler's present grid, for the flow that it samples.

    A diffusion scheduler's pure noise stands for the diffusion point of its first timestep.
    """
    if hasattr(scheduler, "sigmas"):
        return 1.0, scheduler.sigmas
    sigmas = Diff2Flow.from_config(scheduler.config).schedule.sigma_of(scheduler.timesteps.double())
    return flow_scale(sigmas[0]).item(), torch.cat([sigmas, torch.zeros(1)]).float()


@torch.no_grad()
def euler(case: Case, noise: torch.Tensor, time_of=lambda sigma: sigma, prompts=PROMPTS) -> torch.Tensor:
    """Latents after the steps of the scheduler's present grid, by the family's velocity."""
    family, pipeline = case.family, case.pipeline
    condition = case.encode_prompts(prompts)
    velocity = family.bind(pipeline).velocity(family.denoiser(pipeline))
    scale, sigmas = grid(pipeline.scheduler)
    x = noise * scale
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
        x = x + (sigma_next - sigma) * velocity(x, time_of(sigma).expand(len(x)), None, None, condition)
    return x


def check_velocity(case: Case) -> None:
    """Euler steps through the family end where the stock pipeline ends; with time reversed or other prompts not."""
    noise = noise_of(case)
    stock = stock_call(case, latents=case.family.pack(noise), num_inference_steps=STEPS, output_type="latent")
    ours = euler(case, noise)
    assert ours.shape == noise.shape
    expected = case.family.unpack(stock, *noise.shape[-2:])
    size = max(1.0, expected.abs().mean().item())
    torch.testing.assert_close(ours / size, expected / size, **CLOSE)
    assert not torch.allclose(euler(case, noise, lambda sigma: 1 - sigma), ours, atol=1e-3)
    assert not torch.allclose(euler(case, noise, prompts=PROMPTS[::-1]), ours, atol=1e-3)


def check_decoding(case: Case) -> None:
    """The family decodes a sampled latent to the stock pipeline's pixels."""
    noise = noise_of(case)
    packed, pixels = (
        stock_call(case, latents=case.family.pack(noise), num_inference_steps=2, output_type=kind)
        for kind in ("latent", "pt")
    )
    latents = case.family.unpack(packed, *noise.shape[-2:])
    with torch.no_grad():
        decoded = case.family.decode_latents(case.pipeline, latents)
    expected = pixels.transpose(1, 2) if decoded.ndim == 5 else pixels
    torch.testing.assert_close(decoded, expected, **CLOSE)


def check_encoding(case: Case) -> None:
    """Decoding what was encoded is the autoencoder's own round trip: what encoding scales, decoding scales back."""
    family, pipeline, pixels = case.family, case.pipeline, case.pixels()
    with torch.no_grad():
        torch.manual_seed(0)
        ours = family.decode_latents(pipeline, family.encode_images(pipeline, pixels))
        video = pixels.unsqueeze(2) if ours.ndim == 5 or pipeline.vae.config.get("temperal_downsample") else pixels
        encoded = pipeline.vae.encode(video)
        torch.manual_seed(0)
        raw = (
            [encoded.latent_dist.sample(), encoded.latent_dist.mode()]
            if "latent_dist" in encoded
            else [encoded.latent]
        )
        trips = [pipeline.vae.decode(latents, return_dict=False)[0].reshape(ours.shape) for latents in raw]
    assert any(torch.allclose(ours, (trip / 2 + 0.5).clamp(0, 1), **CLOSE) for trip in trips)


def check_padding(case: Case) -> None:
    """A prompt's condition does not depend on the prompts beside it, and conditions of prompts stack."""
    prompts = ["", *PROMPTS]
    images = {name: pixels[:1] for name, pixels in case.references(1).items()}
    with torch.no_grad():
        alone = [case.encode_prompts([prompt]) for prompt in prompts]
        together = case.family.encode_prompts(
            case.pipeline,
            list(prompts),
            case.max_sequence_length,
            **{k: v.repeat(3, 1, 1, 1) for k, v in images.items()},
        )
    for name, tensor in together.items():
        torch.testing.assert_close(torch.cat([condition[name] for condition in alone]), tensor, **CLOSE)


def add_references(images: Path) -> Path:
    """Give every image of a folder the next one as its reference, in the column `reference`."""
    rows = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    names = [row["file_name"] for row in rows]
    for row, name in zip(rows, names[1:] + names[:1]):
        row["reference_file_name"] = name
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return images


def train(script, case: Case, base: Path, images: Path, output: Path, train_type: str) -> None:
    """One TwinFlow step of every branch with a validation picture, as a user runs it."""
    options = {
        "pretrained_model_name_or_path": base,
        "dataset_name": images,
        "output_dir": output,
        "train_type": train_type,
        "resolution": case.resolution,
        "max_sequence_length": case.max_sequence_length,
        "train_batch_size": 4,
        "max_train_steps": 1,
        "learning_rate": 1e-2,
        "rank": 2,
        "num_validation_images": 1,
        "validation_base_steps": 2,
    }
    if case.family.takes_reference_image:
        options |= {"reference_image_column": "reference", "validation_image": next(images.glob("*.png"))}
    switches = ["--twinflow_enabled", "--twinflow_adversarial_enabled", "--no-save_ema", *case.options]
    pictures = ["--validation_prompts", *PROMPTS, "--validation_step_counts", "1", "2"]
    with fresh_accelerator():
        script.main([f"--{k}={v}" for k, v in options.items()] + switches + pictures)


@torch.no_grad()
def draw(case: Case, pipeline: DiffusionPipeline) -> torch.Tensor:
    """One picture by the family, pixels of shape [3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    options = case.family.size_options(case.resolution)
    if case.family.takes_reference_image:
        options["image"] = as_pictures(case.references(1)["reference_images"])[0]
    return case.family.draw(pipeline, PROMPTS[:1], generator=generator, output_type="pt", **options)[0]


def trained_layers(model: torch.nn.Module, targets: list[str]) -> dict[str, bool]:
    """Whether the LoRA of at least one layer that each target names has left its initial value."""
    moved = {
        name.split(".lora_B")[0]: bool(parameter.any())
        for name, parameter in model.named_parameters()
        if ".lora_B." in name
    }
    return {target: any(v for name, v in moved.items() if name.endswith(target)) for target in targets}
