"""Distill the digits base into a one-step TwinFlow LoRA, score it and draw a comparison.

Writes comparison.png, report.json and the LoRA itself into the output folder. Paths are relative to the repository.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
from datasets import disable_progress_bars

from diffusers_twinflow.cli.quiet import quiet_libraries

with quiet_libraries(print):  # libraries print messages when they are imported
    import torch
    from base import DEFAULT_BASE_DIR, load_base
    from comparison import save_comparison
    from draw import draw_prompts
    from judge import DigitJudge, agreement, extract_features, frechet_distance, save_judge, train_judge
    from prepare_data import DEFAULT_DATA_DIR, digit_prompt, load_split, prepare_data
    from report import environment, format_targets, targets, write_report
    from safetensors.torch import load_file
    from score import base_column, format_table, initial_noise, score_column, twinflow_column

    from diffusers_twinflow import TwinFlowPipeline

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = "examples/digits/distill_lora.json"
BASE_STEPS = 25
TWINFLOW_STEPS = (1, 2, 4)
PROMPTS = [digit_prompt(digit) for digit in range(10)]


INTRODUCTION = """\
This trains a TwinFlow LoRA for a small model of handwritten digits and scores it, in five parts.
It takes about 6 minutes on two CPU cores, most of it in the third part."""
PHASES = {
    "data": "write the digits and their captions (1 of 5)",
    "judge": "train a small classifier that scores the images (2 of 5)",
    "training": "train the LoRA (3 of 5)",
    "scoring": "generate and score images of the base and of the LoRA (4 of 5)",
    "new process": "load the LoRA in a new process and compare its images (5 of 5)",
}


@contextmanager
def phase(name: str, seconds: dict[str, float]):
    """Print the name of a part of the demo and record how long it takes."""
    print(f"== {name}: {PHASES[name]}", flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def distill(args: argparse.Namespace, lora_dir: Path, extra_arguments: list[str]) -> list[str]:
    """Run the training script as a user would, and return the command."""
    command = [sys.executable, "examples/train_twinflow.py", "--config", args.config, "--mixed_precision", "no"]
    command += ["--pretrained_model_name_or_path", args.base]
    command += ["--dataset_name", args.data_dir, "--output_dir", str(lora_dir), *extra_arguments]
    shutil.rmtree(lora_dir, ignore_errors=True)  # from an earlier demo; training does not overwrite another run
    if (status := subprocess.run(command, check=False).returncode) != 0:
        raise SystemExit(f"The training ended with exit status {status}. Its last lines say why.")
    return ["python", *command[1:]]


def score_real_digits(judge: DigitJudge, data_dir: str, reference: torch.Tensor) -> dict[str, object]:
    """Score the real test digits: the scores of perfect samples, and the judge's held-out accuracy."""
    images, labels = load_split(data_dir, "test")
    features = extract_features(judge, images)
    return {
        "name": "real test digits",
        "frechet_distance": frechet_distance(features, reference),
        "agreement": agreement(judge, features, labels),
    }


def score_columns(
    args, lora_dir: Path, judge: DigitJudge, reference: torch.Tensor
) -> tuple[list[dict[str, object]], dict[str, torch.Tensor]]:
    """Return the rows of the report and the images of each column, all from the same noise."""
    base = load_base(args.base)
    twinflow = TwinFlowPipeline.from_pretrained(lora_dir)
    columns = [base_column(base, BASE_STEPS, args.base_guidance_scale), base_column(base, 1, 1.0)]
    columns += [twinflow_column(twinflow, steps) for steps in TWINFLOW_STEPS]
    latents = initial_noise(base, args.num_samples, args.seed)
    rows, images = [], {}
    for column in columns:
        row, images[column.name] = score_column(column, judge, reference, latents, seed=args.seed)
        rows.append(row)
    return rows, images


def difference_in_new_process(lora_dir: Path, seed: int, output: Path) -> float:
    """Generate with the saved LoRA in this process and in a new one, and return the largest difference of pixels."""
    pipeline = TwinFlowPipeline.from_pretrained(lora_dir)
    expected = draw_prompts(pipeline, PROMPTS, seed)
    command = [sys.executable, "examples/digits/draw.py", "--model", str(lora_dir), "--seed", str(seed)]
    command += ["--output", str(output), "--prompts", *PROMPTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:  # only then what it printed is of use: libraries print messages when they are imported
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return (load_file(str(output))["images"] - expected).abs().max().item()


def parse_args(input_args: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments. Unknown arguments are passed to train_twinflow.py."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__.splitlines()[0],
        epilog="All other arguments are passed to examples/train_twinflow.py.",
    )
    parser.add_argument("--output_dir", default="outputs/demo", help="Folder for the LoRA, the images and the report.")
    parser.add_argument("--base", default=DEFAULT_BASE_DIR, help="Folder of the base pipeline.")
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="Recipe of the distillation.")
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="Folder to write the digits to.")
    parser.add_argument(
        "--base_guidance_scale", type=float, default=1.2, help="Guidance scale for the base at 25 steps; see score.py."
    )
    parser.add_argument("--num_samples", type=int, default=1000, help="Number of samples to score per column.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the judge and of the initial noise.")
    args, extra_arguments = parser.parse_known_args(input_args)
    if args.num_samples < 100 or args.num_samples % 10:
        parser.error(
            f"--num_samples={args.num_samples} is not valid. Use a multiple of 10 of at least 100, such as 1000."
        )
    if args.base_guidance_scale <= 1:
        parser.error(f"--base_guidance_scale={args.base_guidance_scale} turns guidance off. Use a number above 1.")
    return args, extra_arguments


def main(args: argparse.Namespace, extra_arguments: list[str]) -> None:
    os.chdir(REPOSITORY)
    load_base(args.base)
    output_dir, seconds = Path(args.output_dir), {}
    lora_dir = output_dir / "lora"
    output_dir.mkdir(parents=True, exist_ok=True)
    print(INTRODUCTION, flush=True)

    with phase("data", seconds):
        prepare_data(args.data_dir)
    with phase("judge", seconds):
        train_images, train_labels = load_split(args.data_dir, "train")
        judge = train_judge(train_images, train_labels, seed=args.seed)
        save_judge(judge, output_dir / "judge.safetensors")
        reference = extract_features(judge, train_images)
        real = score_real_digits(judge, args.data_dir, reference)
        print(f"held-out accuracy of the judge: {real['agreement']:.1%}")
    with phase("training", seconds):
        command = distill(args, lora_dir, extra_arguments)
    with phase("scoring", seconds):
        rows, images = score_columns(args, lora_dir, judge, reference)
        save_comparison(images, PROMPTS, output_dir / "comparison.png")
    with phase("new process", seconds):
        difference = difference_in_new_process(lora_dir, args.seed, output_dir / "new_process.safetensors")
    seconds["total"] = time.time() - psutil.Process().create_time()

    reached = targets(rows[0], rows[2], real["agreement"], seconds, difference)
    write_report(
        {
            "columns": rows,
            "real_digits": real,
            "judge": {"held_out_accuracy": real["agreement"], "reference": "the real train digits"},
            "new_process_max_difference": difference,
            "targets": reached,
            "seconds": seconds,
            "settings": vars(args) | {"base_steps": BASE_STEPS, "training_command": command},
            **environment(),
        },
        output_dir / "report.json",
    )
    print(f"\n{format_table([real | {'evaluations': '-', 'seconds': 0.0}, *rows])}\n\n{format_targets(reached)}\n")
    print(f"{output_dir / 'comparison.png'}\n{output_dir / 'report.json'}\n{lora_dir}")


if __name__ == "__main__":
    disable_progress_bars()
    try:
        with quiet_libraries(print):
            main(*parse_args())
    except KeyboardInterrupt:
        raise SystemExit("The demo was stopped. Run it again to start from the beginning.") from None
