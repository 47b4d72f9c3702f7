#!/usr/bin/env python
"""Compare methods to fine-tune a few-step model on new images, on the digits and a CPU.

The digits base is first distilled into a few-step model of stock classes. It is then trained on mirrored digits in
several ways. Each row is scored on the same noise. About 15 minutes on one core:

    python benchmarks/few_step_base.py --output benchmarks/results/few_step_base_digits.json
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from diffusers import StableDiffusion3Pipeline

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "examples" / "digits"))

from prepare_data import DEFAULT_DATA_DIR, ensure_data, load_split, to_dataset  # noqa: E402
from report import environment  # noqa: E402
from score import score_column, twinflow_column  # noqa: E402

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler  # noqa: E402
from diffusers_twinflow.families import FAMILIES  # noqa: E402
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline  # noqa: E402
from diffusers_twinflow.pipelines import export  # noqa: E402
from diffusers_twinflow.training.recipe import build_options  # noqa: E402
from schedules import BASE, OPTIONS, Scorer, train_on_digits  # noqa: E402

STEP_COUNTS = (1, 2, 4)
FLOW_MATCHING = {"twinflow_enabled": False}
FEW_STEP, MANY_STEP = "few-step model", "base"
WAYS = {
    "not trained": (FEW_STEP, None),
    "flow matching": (FEW_STEP, FLOW_MATCHING),
    "TwinFlow": (FEW_STEP, {"twinflow_enhanced_ratio": 0.0}),
    "TwinFlow, guidance built in": (FEW_STEP, {"twinflow_enhanced_ratio": 0.2}),
    "TwinFlow, from the base": (MANY_STEP, {"twinflow_enhanced_ratio": 0.2}),
}


def train(
    base: str, changes: dict[str, object], data_dir: str, output: str, steps: int, args: argparse.Namespace, name: str
) -> float:
    """Train a LoRA on digits and save it. Returns the seconds of the steps."""
    options = OPTIONS | {"pretrained_model_name_or_path": base, "output_dir": output, "seed": args.seed}
    options |= {"train_batch_size": args.batch_size, "max_train_steps": steps} | changes
    trainer, seconds = train_on_digits(build_options(options), data_dir, name)
    trainer.save()
    return seconds


def make_few_step_model(directory: Path, args: argparse.Namespace) -> str:
    """Distill the base, and save the result as a pipeline of stock classes, as few-step models are published."""
    train(str(BASE), {}, args.data_dir, str(directory / "distilled"), args.distillation_steps, args, "distillation")
    export(directory / "distilled", directory / "few-step", "merged", step_counts=[1, 2, 4])
    return str(directory / "few-step")


def mirror(data_dir: str, output: Path) -> str:
    """Write the mirrored digits as a dataset."""
    output.mkdir()
    for split in ("train", "test"):
        images, labels = load_split(data_dir, split)
        pixels = (images.flip(-1).permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
        to_dataset(pixels, labels.numpy()).to_parquet(output / f"{split}.parquet")
    return str(output)


def sampler(base: str, lora: str | None, with_twinflow: bool) -> StableDiffusion3Pipeline:
    """The pipeline that samples in few steps: with the LoRA's own target times, or with those in the weights."""
    if lora is not None and with_twinflow:
        return TwinFlowPipeline.from_pretrained(lora)
    pipeline = load_stock_pipeline(FAMILIES["stable_diffusion_3"], base)
    if lora is not None:
        pipeline.load_lora_weights(lora)
    pipeline.scheduler = TwinFlowScheduler()
    return NoGuidance(pipeline)


class NoGuidance:
    """A stock pipeline whose calls have no guidance."""

    def __init__(self, pipeline: StableDiffusion3Pipeline):
        self.pipeline = pipeline

    def __call__(self, **call):
        return self.pipeline(guidance_scale=1.0, max_sequence_length=1, **call)

    def __getattr__(self, name: str):
        return getattr(self.pipeline, name)


def score(pipeline, scorer: Scorer) -> dict[str, dict[str, object]]:
    """The scores by number of steps."""
    found = {}
    for steps in STEP_COUNTS:
        row, _ = score_column(twinflow_column(pipeline, steps), scorer.judge, scorer.reference, scorer.latents)
        found[str(steps)] = {name: row[name] for name in ("frechet_distance", "agreement")}
    return found


def parse_benchmark_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--distillation_steps", type=int, default=240, help="Number of steps to make the few-step model."
    )
    parser.add_argument("--steps", type=int, default=100, help="Number of steps on the mirrored digits.")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--samples", type=int, default=1000, help="Number of samples per row, a multiple of 10.")
    parser.add_argument(
        "--data_dir", default=DEFAULT_DATA_DIR, help="Folder of the digits, which is made if it does not exist."
    )
    parser.add_argument("--output", help="JSON file for the results.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    ensure_data(args.data_dir)
    settings = {name: value for name, value in vars(args).items() if name not in ("data_dir", "output")}
    result = {"rows": [], "settings": settings, "date": datetime.date.today().isoformat(), **environment()}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        data_dir = mirror(args.data_dir, directory / "mirrored")
        scorer = Scorer(data_dir, args.samples)
        bases = {FEW_STEP: make_few_step_model(directory, args), MANY_STEP: str(BASE)}
        for number, name in enumerate(args.ways):
            start, changes = WAYS[name]
            lora, seconds = None, 0.0
            if changes is not None:
                lora = str(directory / f"lora-{number}")
                seconds = train(bases[start], changes, data_dir, lora, args.steps, args, name)
            pipeline = sampler(bases[start], lora, changes is not FLOW_MATCHING)
            row = {"name": name, "start": start, "seconds": seconds, "scores": score(pipeline, scorer)}
            result["rows"].append(row)
            distances = ", ".join(f"{row['scores'][str(steps)]['frechet_distance']:.1f}" for steps in STEP_COUNTS)
            print(f"{name}: Fréchet distance {distances} at 1, 2 and 4 steps", flush=True)
            if args.output:
                Path(args.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(parse_benchmark_args())
