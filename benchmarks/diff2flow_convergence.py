"""How fast deterministic sampling through the bridge converges to the images of stock solvers, on tiny real UNets.

All samplers start from the same noise in an unmodified `StableDiffusionPipeline`. The error is the difference of the latents
from DDIM with many steps, relative to its norm.
"""

import argparse

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

from at_real_size.measuring import Report
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


def build_pipeline(prediction_type: str, schedule: dict, seed: int) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
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


def draw(
    pipeline: StableDiffusionPipeline, make_scheduler, config, steps: int, guidance_scale: float, seed: int
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
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


def measure(args: argparse.Namespace, report: Report) -> None:
    for schedule_name, schedule in SCHEDULES.items():
        for prediction_type in ("epsilon", "v_prediction"):
            pipeline = build_pipeline(prediction_type, schedule, args.seed)
            config = pipeline.scheduler.config
            for guidance_scale in (1.0, 5.0):
                call = {"pipeline": pipeline, "config": config, "guidance_scale": guidance_scale, "seed": args.seed}
                reference = draw(make_scheduler=WAYS["DDIM"], steps=args.reference_steps, **call)
                for way, make_scheduler in WAYS.items():
                    errors = {
                        steps: error(draw(make_scheduler=make_scheduler, steps=steps, **call), reference)
                        for steps in args.steps
                    }
                    case = {"schedule": schedule_name, "prediction_type": prediction_type, "guidance": guidance_scale}
                    report.add({**case, "way": way, "relative_error": errors})


def error(sample: torch.Tensor, reference: torch.Tensor) -> float:
    return round(((sample - reference).norm() / reference.norm()).item(), 6)


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50, 100, 250])
    parser.add_argument(
        "--reference_steps", type=int, default=1000, help="Number of DDIM steps of the reference, a divisor of 1000."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the network, the noise and the prompts.")
    parser.add_argument("--output", help="JSON file for the results.")
    parser.set_defaults(device="cpu", tiny=False, minutes=60.0)
    return parser.parse_args(input_args)


if __name__ == "__main__":
    arguments = parse_args()
    measure(arguments, Report(arguments, arguments.output, arguments.minutes))
