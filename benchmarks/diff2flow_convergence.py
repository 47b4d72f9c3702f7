"""How fast the bridge's deterministic sampling converges to the stock solvers' picture, on tiny real UNets.

Every way starts from the same noise in an unmodified `StableDiffusionPipeline`; the error is that of the latents, relative
to the norm of the reference, DDIM with many steps.
"""

import argparse
import json
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

from diffusers_twinflow import TwinFlowScheduler

SCHEDULES = {
    "Stable Diffusion": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
}
DDIM = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}


def ours(style: str):
    return lambda config: TwinFlowScheduler.from_config(config, sampling_style=style)


WAYS = {
    "TwinFlow multi": ours("multi"),
    "TwinFlow multi, second order": lambda config: TwinFlowScheduler.from_config(
        config, sampling_style="multi", sampling_order=2
    ),
    "DDIM": DDIMScheduler.from_config,
    "DPM-Solver++": lambda config: DPMSolverMultistepScheduler.from_config(config),
}


def build_pipeline(prediction_type: str, schedule: dict) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=16,
    )
    parts = {"vae": None, "text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    scheduler = DDIMScheduler(prediction_type=prediction_type, **schedule, **DDIM)
    pipeline = StableDiffusionPipeline(unet=unet.eval(), scheduler=scheduler, requires_safety_checker=False, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline, make_scheduler, config, steps: int, guidance_scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 4, 8, 8, generator=generator)
    embeds, negative = torch.randn(2, 4, 5, 16, generator=generator)
    pipeline.scheduler = make_scheduler(config)
    return pipeline(
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).images


def measure(args: argparse.Namespace) -> list[dict]:
    rows = []
    for schedule_name, schedule in SCHEDULES.items():
        for prediction_type in ("epsilon", "v_prediction"):
            pipeline = build_pipeline(prediction_type, schedule)
            config = pipeline.scheduler.config
            for guidance_scale in (1.0, 5.0):
                call = {"pipeline": pipeline, "config": config, "guidance_scale": guidance_scale}
                reference = draw(make_scheduler=WAYS["DDIM"], steps=args.reference_steps, **call)
                for way, make_scheduler in WAYS.items():
                    errors = {
                        steps: error(draw(make_scheduler=make_scheduler, steps=steps, **call), reference)
                        for steps in args.steps
                    }
                    case = {"schedule": schedule_name, "prediction_type": prediction_type, "guidance": guidance_scale}
                    rows.append({**case, "way": way, "relative_error": errors})
                    shown = " ".join(f"{value:8.4f}" for value in errors.values())
                    print(f"{schedule_name:18} {prediction_type:13} {guidance_scale:5g} {way:30} {shown}", flush=True)
    return rows


def error(sample: torch.Tensor, reference: torch.Tensor) -> float:
    return round(((sample - reference).norm() / reference.norm()).item(), 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50, 100, 250])
    parser.add_argument("--reference_steps", type=int, default=1000, help="Of DDIM, which needs divisors of 1000.")
    parser.add_argument("--output", type=Path, help="JSON file for the results.")
    args = parser.parse_args()
    header = " ".join(f"{steps:8}" for steps in args.steps)
    print(f"{'schedule':18} {'prediction':13} {'guid.':>5} {'way':30} {header}")
    rows = measure(args)
    if args.output:
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
        report = {"reference": f"DDIM, {args.reference_steps} steps", **versions, "rows": rows}
        args.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
