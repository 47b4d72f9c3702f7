"""Distill a diffusion model of digits, whose UNet predicts the noise, into a one-step TwinFlow LoRA, and score it.

The digits, the judge and the base are made if they do not exist. The distillation uses the diff2flow bridge. The output
folder gets report.json, comparison.png and the LoRA. Paths are relative to the repository.
"""

import argparse
import os
from pathlib import Path

import build_epsilon_base
import judge as judges
import torch
from comparison import save_comparison
from demo import PROMPTS, REPOSITORY, TWINFLOW_STEPS, distill, phase, score_real_digits
from diffusers import StableDiffusionPipeline
from prepare_data import DEFAULT_DATA_DIR, ensure_data, load_split
from report import environment, write_report
from score import base_column, format_table, initial_noise, score_column, twinflow_column

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler

BASE_STEPS = 50
FEW_STEPS = (1, 4)


def make_base(args: argparse.Namespace, base_arguments: list[str]) -> None:
    ensure_data(args.data_dir)
    if not Path(args.judge).is_file():
        judges.main(judges.parse_args(["--data_dir", args.data_dir, "--output", args.judge]))
    if not Path(args.base, "model_index.json").is_file():
        where = ["--data_dir", args.data_dir, "--output_dir", args.base]
        build_epsilon_base.main(build_epsilon_base.parse_args([*where, *base_arguments]))


def columns_to_score(args: argparse.Namespace, lora_dir: Path):
    """Yield the base, the base at few steps of our scheduler, and the distilled model. Each is loaded when needed."""
    base = StableDiffusionPipeline.from_pretrained(args.base).to(args.device)
    yield base, base_column(base, BASE_STEPS, args.base_guidance_scale)
    yield base, base_column(base, BASE_STEPS, 1.0)
    stock_scheduler = base.scheduler
    for steps in FEW_STEPS:
        yield base, base_column(base, steps, 1.0)
    base.scheduler = TwinFlowScheduler.from_config(stock_scheduler.config, sampling_style="multi")
    column = base_column(base, BASE_STEPS, 1.0)
    yield base, type(column)(f"{column.name}, bridged", column.evaluations, column.draw)
    twinflow = TwinFlowPipeline.from_pretrained(lora_dir).to(args.device)
    for steps in TWINFLOW_STEPS:
        yield twinflow, twinflow_column(twinflow, steps)


def score(args: argparse.Namespace, lora_dir: Path) -> tuple[list[dict], dict[str, torch.Tensor], dict]:
    judge = judges.load_judge(args.judge)
    reference = judges.extract_features(judge, load_split(args.data_dir, "train")[0])
    rows, images, latents = [], {}, None
    for pipeline, column in columns_to_score(args, lora_dir):
        if latents is None:
            latents = initial_noise(pipeline, args.num_samples, args.seed).to(args.device)
        row, images[column.name] = score_column(column, judge, reference, latents)
        rows.append(row)
    return rows, images, score_real_digits(judge, args.data_dir, reference)


def parse_args(input_args: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments. Unknown arguments are passed to train_twinflow.py."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="outputs/epsilon_demo")
    parser.add_argument(
        "--base",
        default=build_epsilon_base.DEFAULT_OUTPUT_DIR,
        help="Folder of the base. It is made if it does not exist.",
    )
    parser.add_argument("--base_steps", default="3000", help="Number of optimizer steps if the base is made.")
    parser.add_argument(
        "--config", default="examples/digits/distill_epsilon_lora.json", help="Recipe of the distillation."
    )
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="Folder of the digits.")
    parser.add_argument("--judge", default=judges.DEFAULT_JUDGE_PATH, help="File of the judge.")
    parser.add_argument(
        "--base_guidance_scale", type=float, default=1.25, help="Guidance scale for the base at 50 steps."
    )
    parser.add_argument("--num_samples", type=int, default=1000, help="Number of samples to score per column.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the initial noise.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_known_args(input_args)


def main(args: argparse.Namespace, extra_arguments: list[str]) -> None:
    os.chdir(REPOSITORY)
    output_dir, seconds = Path(args.output_dir), {}
    lora_dir = output_dir / "lora"
    output_dir.mkdir(parents=True, exist_ok=True)
    with phase("base", seconds):
        make_base(args, ["--steps", args.base_steps, "--device", args.device])
    with phase("training", seconds):
        command = distill(args, lora_dir, extra_arguments)
    with phase("scoring", seconds):
        rows, images, real = score(args, lora_dir)
        save_comparison(images, PROMPTS, output_dir / "comparison.png")
    settings = vars(args) | {"base_steps_of_sampling": BASE_STEPS, "training_command": command}
    report = {"columns": rows, "real_digits": real, "seconds": seconds, "settings": settings, **environment()}
    write_report(report, output_dir / "report.json")
    print(f"\n{format_table([real | {'evaluations': '-', 'seconds': 0.0}, *rows])}\n\n{output_dir / 'report.json'}")


if __name__ == "__main__":
    main(*parse_args())
