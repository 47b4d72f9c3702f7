"""Generate the images of the evaluation with stock pipeline calls. Prompts are encoded once."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
)

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler
from diffusers_twinflow.families import family_of
from diffusers_twinflow.hub.portable import Portable
from diffusers_twinflow.hub.stock_use import stock_use

BATCH_SIZE = 2048
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 1.0}
STOCK_SCHEDULERS = {
    "FlowMatchEuler": lambda: FlowMatchEulerDiscreteScheduler(shift=1.0),
    "FlowMatchLCM": lambda: FlowMatchLCMScheduler(shift=1.0),
    "UniPC": lambda: UniPCMultistepScheduler(**FLOW),
    "DPM++": lambda: DPMSolverMultistepScheduler(**FLOW),
}


def load_base(directory: str | Path, device: torch.device) -> StableDiffusion3Pipeline:
    if not (Path(directory) / "model_index.json").is_file():
        raise FileNotFoundError(f"no pipeline in {directory}: run `python benchmarks/quality.py --stage base` first.")
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        directory, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    return _quiet(pipeline.to(device))


def load_distilled(directory: str | Path, base: str | Path, device: torch.device) -> TwinFlowPipeline:
    return _quiet(TwinFlowPipeline.from_pretrained(directory, base_model=str(base), dtype=torch.float32).to(device))


def _quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Sampler:
    """Generates images of the evaluation's prompts from its noise, with any pipeline of the same base.

    The transformer runs in bfloat16 on a GPU; latents, scheduler and decoder stay in float32.
    """

    def __init__(
        self,
        base: StableDiffusion3Pipeline,
        prompts: list[str],
        noise: torch.Tensor,
        seed: int,
        batch_size: int = BATCH_SIZE,
    ):
        self.device, self.seed, self.batch_size = base._execution_device, seed, batch_size
        self.noise = noise.to(self.device)
        family = family_of(base)
        parts = [prompts[start : start + BATCH_SIZE] for start in range(0, len(prompts), BATCH_SIZE)]
        with torch.no_grad():
            encoded = [family.encode_prompts(base, part, 1) for part in parts]
            self.empty = family.encode_prompts(base, [""], 1)
        self.condition = {name: torch.cat([part[name] for part in encoded]) for name in self.empty}

    @torch.no_grad()
    def draw(
        self, pipeline, steps: int, guidance_scale: float = 1.0, scheduler=None, sigmas: list[float] | None = None
    ) -> torch.Tensor:
        """Generate images `[N, 3, H, W]` in [0, 1].

        Args:
            guidance_scale: guidance scale of a stock pipeline; 1 is no guidance.
            scheduler: replaces the pipeline's scheduler.
            sigmas: sigmas of the steps; by default the scheduler chooses them.
        """
        own_scheduler = pipeline.scheduler
        generator = torch.Generator(self.device).manual_seed(self.seed)

        def latents_of(noise: torch.Tensor, condition: dict[str, torch.Tensor]) -> torch.Tensor:
            return pipeline(
                **condition,
                **self._guidance(pipeline, guidance_scale, len(noise)),
                num_inference_steps=steps,
                sigmas=sigmas,
                latents=noise,
                generator=generator,
                max_sequence_length=1,
                output_type="latent",
            ).images

        try:
            pipeline.scheduler = scheduler or own_scheduler
            return self.draw_with(pipeline, latents_of)
        finally:
            pipeline.scheduler = own_scheduler

    @torch.no_grad()
    def draw_with(self, pipeline, latents_of: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Generate images `[N, 3, H, W]` in [0, 1] with a function, and decode them with a pipeline.

        Args:
            latents_of: takes noise and its condition, and returns latents.
        """
        family, images = family_of(pipeline), []
        for start in range(0, len(self.noise), self.batch_size):
            rows = slice(start, start + self.batch_size)
            condition = {name: tensor[rows] for name, tensor in self.condition.items()}
            with torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext():
                latents = latents_of(self.noise[rows].clone(), condition)
            images.append(family.decode_latents(pipeline, latents.float()).float())
        return torch.cat(images)

    def _guidance(self, pipeline, scale: float, count: int) -> dict[str, object]:
        if isinstance(pipeline, TwinFlowPipeline):
            return {}
        if scale <= 1:
            return {"guidance_scale": 1.0}
        empty = {f"negative_{name}": tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.empty.items()}
        return {"guidance_scale": scale, **empty}


def stock_call(pipeline: TwinFlowPipeline) -> tuple[FlowMatchEulerDiscreteScheduler, dict[int, list[float]]]:
    """Return the stock scheduler on an adapter's card, and the sigmas of each step count."""
    portable = Portable.from_dict(pipeline.twinflow_config.portable)
    use = stock_use(family_of(pipeline), pipeline.scheduler, portable)
    return FlowMatchEulerDiscreteScheduler(**use.scheduler_options), use.sigmas


def twinflow_scheduler(pipeline: TwinFlowPipeline, style: str, **options) -> TwinFlowScheduler:
    """Return the pipeline's scheduler in another style, with the defaults of that style."""
    return TwinFlowScheduler.from_config(pipeline.scheduler.with_style(style).config, **options)
