"""Score the images of a pipeline with the Frechet distance and the agreement, on equally many samples per digit.

Run as a script, it scores a base at several guidance scales, to choose the scale for the demo.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from base import DEFAULT_BASE_DIR, load_base
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from judge import DEFAULT_JUDGE_PATH, DigitJudge, agreement, extract_features, frechet_distance, load_judge
from prepare_data import DEFAULT_DATA_DIR, digit_prompt, load_split
from tqdm.auto import tqdm

from diffusers_twinflow.families import family_of

Draw = Callable[[list[str], torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Column:
    """One way to generate images: `draw(prompts, latents, generator)` returns images `[N, 3, 32, 32]` in [0, 1].

    `evaluations` is the number of transformer evaluations per image. Guidance needs two per step.
    """

    name: str
    evaluations: int
    draw: Draw


def base_column(pipeline: DiffusionPipeline, steps: int, guidance_scale: float) -> Column:
    """Return a column for a stock pipeline. A guidance_scale of 1 means no guidance."""
    evaluations = steps if guidance_scale <= 1 else 2 * steps

    def draw(prompts, latents, generator):
        return draw_images(
            pipeline, prompts, latents, generator, num_inference_steps=steps, guidance_scale=guidance_scale
        )

    return Column(f"base, {count(evaluations, 'evaluation')}", evaluations, draw)


def twinflow_column(pipeline: DiffusionPipeline, steps: int) -> Column:
    """Return a column for a distilled pipeline, which needs one evaluation per step."""

    def draw(prompts, latents, generator):
        return draw_images(pipeline, prompts, latents, generator, num_inference_steps=steps)

    return Column(f"TwinFlow, {count(steps, 'step')}", steps, draw)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def draw_images(pipeline, prompts: list[str], latents: torch.Tensor, generator, **options) -> torch.Tensor:
    """Generate one batch with diffusers. The SD3 base has no T5 encoder, and its placeholder has one token."""
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline, StableDiffusion3Pipeline):
        options["max_sequence_length"] = 1
    return pipeline(prompt=prompts, latents=latents, generator=generator, output_type="pt", **options).images


def balanced_labels(num_samples: int) -> torch.Tensor:
    """Return the digits 0 to 9 in turn."""
    return torch.arange(num_samples) % 10


def initial_noise(pipeline: DiffusionPipeline, num_samples: int, seed: int) -> torch.Tensor:
    """Draw the noise that every column starts from."""
    config = family_of(pipeline).denoiser(pipeline).config
    shape = (num_samples, config.in_channels, config.sample_size, config.sample_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw_samples(column: Column, latents: torch.Tensor, *, batch_size: int, seed: int) -> torch.Tensor:
    """Generate one image per noise, of the digits in turn. The seed is for schedulers that add noise in their steps."""
    prompts = [digit_prompt(digit) for digit in balanced_labels(len(latents)).tolist()]
    generator = torch.Generator().manual_seed(seed)
    images = []
    for start in tqdm(range(0, len(prompts), batch_size), desc=column.name):
        rows = slice(start, start + batch_size)
        images.append(column.draw(prompts[rows], latents[rows], generator).float().cpu())
    return torch.cat(images)


def score_images(judge: DigitJudge, reference: torch.Tensor, images: torch.Tensor) -> dict[str, float]:
    """Score samples of the digits in turn against the features of real digits."""
    features = extract_features(judge, images)
    return {
        "frechet_distance": frechet_distance(features, reference),
        "agreement": agreement(judge, features, balanced_labels(len(images))),
    }


def score_column(
    column: Column,
    judge: DigitJudge,
    reference: torch.Tensor,
    latents: torch.Tensor,
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> tuple[dict[str, object], torch.Tensor]:
    """Score a column and return its row of the report and its images."""
    start = time.perf_counter()
    images = draw_samples(column, latents, batch_size=batch_size, seed=seed)
    seconds = time.perf_counter() - start
    row = {"name": column.name, "evaluations": column.evaluations, **score_images(judge, reference, images)}
    return row | {"seconds": seconds}, images


def format_table(rows: list[dict[str, object]]) -> str:
    lines = [f"{'':<32} {'evaluations':>11} {'Frechet distance':>17} {'agreement':>10} {'seconds':>8}"]
    for row in rows:
        lines.append(
            f"{row['name']:<32} {row['evaluations']:>11} {row['frechet_distance']:>17.2f} "
            f"{row['agreement']:>10.1%} {row['seconds']:>8.1f}"
        )
    return "\n".join(lines)


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=DEFAULT_BASE_DIR, help="Folder of the base pipeline.")
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="Folder that prepare_data.py wrote.")
    parser.add_argument("--judge", default=DEFAULT_JUDGE_PATH, help="File that judge.py wrote.")
    parser.add_argument("--guidance_scales", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0, 4.0])
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--num_samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="Seed of the initial noise.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    pipeline = load_base(args.base)
    judge = load_judge(args.judge)
    reference = extract_features(judge, load_split(args.data_dir, "train")[0])
    latents = initial_noise(pipeline, args.num_samples, args.seed)
    rows = []
    for guidance_scale in args.guidance_scales:
        column = base_column(pipeline, args.num_inference_steps, guidance_scale)
        row, _ = score_column(column, judge, reference, latents)
        rows.append(row | {"name": f"guidance_scale {guidance_scale:g}"})
    print(format_table(rows))


if __name__ == "__main__":
    main(parse_args())
