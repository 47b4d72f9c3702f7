#!/usr/bin/env python
"""Compare learning rate schedules at equal steps: the digits base distilled with the recommended recipe, on a CPU.

Each row is a LoRA, scored on the same noise. About 20 minutes on one core:

    python benchmarks/schedules.py --output benchmarks/results/schedules_digits.json
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "examples" / "digits"))

from base import load_base  # noqa: E402
from judge import DigitJudge, extract_features, train_judge  # noqa: E402
from prepare_data import DEFAULT_DATA_DIR, ensure_data, load_split  # noqa: E402
from report import environment  # noqa: E402
from score import initial_noise, score_column, twinflow_column  # noqa: E402

from diffusers_twinflow import TwinFlowPipeline  # noqa: E402
from diffusers_twinflow.training.recipe import RunOptions, build_options  # noqa: E402
from diffusers_twinflow.training.trainer import Trainer  # noqa: E402
from stability import DigitsInMemory  # noqa: E402

BASE = REPOSITORY / "examples" / "digits" / "base"
SCHEDULES = {
    "constant": {"lr_scheduler": "constant_with_warmup"},
    "falls over the last 60%": {},
}
OPTIONS = {
    "recipe": "recommended",
    "lr_warmup_steps": 10,
    "rank": 32,
    "gradient_accumulation_steps": 1,
    "twinflow_enhanced_ratio": 0.2,
    "max_sequence_length": 1,
    "resolution": 32,
}
STEP_COUNTS = (1, 2)


class Scorer:
    """The judge, and the noise that all rows start from."""

    def __init__(self, data_dir: str, samples: int, seed: int = 0):
        images, labels = load_split(data_dir, "train")
        self.judge: DigitJudge = train_judge(images, labels, seed=seed)
        self.reference = extract_features(self.judge, images)
        self.latents = initial_noise(load_base(str(BASE)), samples, seed)

    def rows(self, directory: str) -> dict[str, dict[str, object]]:
        """Return the scores of a saved LoRA by number of steps."""
        pipeline, found = TwinFlowPipeline.from_pretrained(directory), {}
        for steps in STEP_COUNTS:
            row, _ = score_column(twinflow_column(pipeline, steps), self.judge, self.reference, self.latents)
            found[str(steps)] = {name: row[name] for name in ("frechet_distance", "agreement")}
        return found


def train_on_digits(given: RunOptions, data_dir: str, title: str) -> tuple[Trainer, float]:
    """Take all steps of a run on encoded digits, without saving. Returns the trainer and the seconds."""
    digits, start = DigitsInMemory(given, data_dir), time.perf_counter()
    trainer = Trainer(digits.pipeline, given.arguments, given.method(), digits.batches, callbacks=[])
    trainer.prepare()
    for batch in tqdm(trainer.loader, desc=title, total=given.arguments.max_train_steps, leave=False):
        trainer.begin_step()
        trainer.train_micro_batch(batch)
        trainer.step += 1
    return trainer, time.perf_counter() - start


def train(name: str, seed: int, args: argparse.Namespace, scorer: Scorer) -> dict[str, object]:
    """Train once and return the scores."""
    options = OPTIONS | SCHEDULES[name]
    options |= {"train_batch_size": args.batch_size, "max_train_steps": args.steps, "seed": seed}
    with tempfile.TemporaryDirectory() as directory:
        given = build_options(
            options | {"pretrained_model_name_or_path": str(BASE), "output_dir": f"{directory}/lora"}
        )
        trainer, seconds = train_on_digits(given, args.data_dir, f"{name}, seed {seed}")
        trainer.save()
        scores = scorer.rows(f"{directory}/lora")
    return {"schedule": name, "seed": seed, "options": options, "seconds": seconds, "scores": scores}


def parse_benchmark_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--samples", type=int, default=1000, help="Number of samples per row, a multiple of 10.")
    parser.add_argument(
        "--data_dir", default=DEFAULT_DATA_DIR, help="Folder of the digits, which is made if it does not exist."
    )
    parser.add_argument("--output", help="JSON file for the results.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    ensure_data(args.data_dir)
    scorer = Scorer(args.data_dir, args.samples)
    settings = {name: value for name, value in vars(args).items() if name not in ("data_dir", "output")}
    result = {"rows": [], "settings": settings, "date": datetime.date.today().isoformat(), **environment()}
    for seed in args.seeds:
        for name in args.schedules:
            row = train(name, seed, args, scorer)
            result["rows"].append(row)
            distances = ", ".join(f"{row['scores'][str(steps)]['frechet_distance']:.1f}" for steps in STEP_COUNTS)
            print(f"{name}, seed {seed}: Fréchet distance {distances} at 1 and 2 steps", flush=True)
            if args.output:
                Path(args.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(parse_benchmark_args())
