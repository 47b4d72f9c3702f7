"""Measure the quality of few-step models: a text-to-image base is trained on captioned emoji, distilled with many options, and
scored.

On a GPU, with the data that `benchmarks/quality/prepare_data.py` makes:

    python benchmarks/quality.py --stage base --gpus 0 1 --base_minutes 7
    python benchmarks/quality.py --stage stock
    python benchmarks/quality.py --stage variants --gpus 0 1 --jobs_per_gpu 4 --minutes 10
    python benchmarks/quality.py --stage report --publish

Without a GPU this is a rehearsal: tiny models on handwritten digits, to see that everything runs. Its numbers mean nothing, and
it writes only to outputs/.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain, count
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quality import ROOT
from quality.base import train_base
from quality.dataset import load_split
from quality.digits_data import prepare_digits
from quality.judge import load_judge, save_judge, train_judge
from quality.launching import run_logged
from quality.own_samples import OWN_SAMPLES, add_own_samples
from quality.prompts import build_evaluation
from quality.report import assemble, draw_curves, draw_grid, machine, table, today
from quality.rows import (
    choose_reference,
    pictured_prompts,
    reference_rows,
    save_pictures,
    score_control,
    score_variant,
    stock_rows,
)
from quality.running import Runner, trained_folder
from quality.sampling import Sampler, load_base
from quality.scores import Scorer
from quality.settings import FULL, REHEARSAL, Settings
from quality.variants import CONTROL, VARIANTS, Variant

STAGES = ("data", "judge", "base", "stock", "own_samples", "variants", "report")
SCORE = "score"
REHEARSED = (
    "full-reference",
    CONTROL,
    "lora-recommended-own-samples",
    "lora-all-linears",
    "full-negative-time",
    "lora-squeezed",
)
REFERENCE, REFERENCE_PICTURES = "base_reference.json", "base_reference.safetensors"
RESULTS, PICTURES = "benchmarks/results", "docs/images"


class Benchmark:
    """The stages of the benchmark. Results of an earlier call in the same folder are used again."""

    def __init__(self, args: argparse.Namespace, settings: Settings):
        self.args, self.settings = args, settings
        self.work_dir, self.data_dir = Path(args.output_dir), Path(args.data_dir)
        self.base_dir, self.judge_path = self.work_dir / "base", self.work_dir / "judge.safetensors"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.work_dir.mkdir(parents=True, exist_ok=True)

    @cached_property
    def train(self):
        return load_split(self.data_dir, "train")

    @cached_property
    def test(self):
        return load_split(self.data_dir, "test")

    @cached_property
    def evaluation(self):
        return build_evaluation(self.train, self.test, self.settings)

    @cached_property
    def base(self):
        return load_base(self.base_dir, self.device)

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(self.base, self.evaluation.prompts, self.evaluation.noise, self.settings.seed)

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(load_judge(self.judge_path, self.settings, self.device), self.train, self.evaluation)

    @cached_property
    def reference(self) -> dict:
        """The row of the base with which distilled models are compared."""
        chosen = self.base_at_many_steps()["reference"]
        path = self.work_dir / REFERENCE_PICTURES
        if not path.is_file():
            images = self.sampler.draw(self.base, chosen["steps"], chosen["guidance_scale"])
            one = self.sampler.draw(self.base, 1)
            names = (f"{chosen['evaluations']}\nevaluations", "1\nevaluation")
            save_pictures(dict(zip(names, (images, one))), self.work_dir / "pictures" / "base.safetensors")
            write_whole(path, lambda aside: save_file({"images": images.half().cpu()}, str(aside)))
        self.scorer.set_reference(load_file(str(path))["images"].to(self.device).float())
        return chosen

    def base_at_many_steps(self) -> dict:
        path = self.work_dir / REFERENCE
        if not path.is_file():
            judge = {"features": "last hidden layer", **self.scorer.real_row(self.train, self.test)}
            print(f"judge, on real images: {judge}", flush=True)
            rows = reference_rows(self.base, self.sampler, self.scorer, self.settings)
            write_json(path, {"judge": judge, "reference": choose_reference(rows, self.settings), "rows": rows})
        return json.loads(path.read_text())

    def run_data(self) -> None:
        if self.args.rehearsal and not (self.data_dir / "train.parquet").is_file():
            prepare_digits(self.data_dir)
        print(f"data: {len(self.train)} train and {len(self.test)} held-out images", flush=True)

    def run_judge(self) -> None:
        if not self.judge_path.is_file():
            save_judge(train_judge(self.train, self.settings, self.device), self.judge_path)

    def run_base(self) -> None:
        """Train the judge and the base. With two devices, the judge and the autoencoder are trained at the same time."""
        args, beside = self.args, None
        if len(args.gpus) > 1 and not self.judge_path.is_file():
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": args.gpus[-1]}
            again = [*sys.argv, "--stage", "judge", "--gpus", args.gpus[-1]]
            beside = subprocess.Popen([sys.executable, *again], env=environment)
        else:
            self.run_judge()
        report = train_base(
            self.data_dir,
            self.base_dir,
            self.work_dir,
            self.settings,
            minutes=args.base_minutes,
            gpus=args.base_gpus,
            earlier=Path(args.continue_base) if args.continue_base else None,
        )
        print(json.dumps(report, indent=2), flush=True)
        if beside is not None and beside.wait():
            raise SystemExit(f"the judge's training failed with code {beside.returncode}: see above")

    def run_stock(self) -> None:
        """Score the base, first at many steps for the comparison, then at few steps."""
        path = self.work_dir / "base_rows.json"
        if path.is_file():
            return
        guidance_scale, scored = self.reference["guidance_scale"], self.base_at_many_steps()
        rows = stock_rows(self.base, self.sampler, self.scorer, self.settings, guidance_scale)
        write_json(path, scored | {"rows": scored["rows"] + rows})

    def run_own_samples(self) -> None:
        """Write data with images that the base generated, for the variants that train on them."""
        folder = self.work_dir / OWN_SAMPLES
        if folder.is_dir():
            return
        counts = add_own_samples(
            self.base_dir,
            self.data_dir,
            folder,
            self.train,
            self.test,
            self.settings,
            self.reference["guidance_scale"],
        )
        write_json(folder / "counts.json", counts)
        print(f"own samples: {counts}", flush=True)

    def run_variants(self) -> None:
        deadline = time.monotonic() + 60 * self.args.minutes
        chosen = [variant for variant in VARIANTS if not self.args.only or variant.name in self.args.only]
        runner = Runner(
            base=self.base_dir,
            data_dir=self.data_dir,
            work_dir=self.work_dir,
            settings=self.settings,
            score=self.score_apart,
            deadline=deadline,
            bf16=self.device.type == "cuda",
            keep_weights=self.args.keep_weights,
        )
        runner.run_all(tuple(chosen), self.args.gpus, self.args.jobs_per_gpu)

    def score_apart(self, variant: Variant, steps: int, gpu: str | None) -> list[dict]:
        """Return the rows of a trained variant. A process on the device that trained it generates and scores the images."""
        rehearsal = "--rehearsal" if self.args.rehearsal else "--no-rehearsal"
        command = [sys.executable, __file__, "--stage", SCORE, "--only", variant.name, "--trained_steps", str(steps)]
        command += ["--output_dir", str(self.work_dir), "--data_dir", str(self.data_dir), rehearsal]
        run_logged(command, self.work_dir / "logs" / f"{variant.name}.log", gpus=None if gpu is None else [gpu])
        return json.loads(self.rows_path(variant).read_text())

    def rows_path(self, variant: Variant) -> Path:
        return self.work_dir / "rows" / f"{variant.name}.json"

    def run_score(self) -> None:
        """Score one variant that was trained in this folder."""
        (variant,) = (variant for variant in VARIANTS if variant.name in self.args.only)
        folder, steps = trained_folder(self.work_dir, variant), self.args.trained_steps
        reference = self.reference
        print(f"compared with {reference}", flush=True)
        if variant.is_control:
            shared = {"sampler": self.sampler, "scorer": self.scorer, "reference": reference}
            rows = score_control(variant, folder, steps, **shared)
        else:
            where = {"base": self.base_dir, "sampler": self.sampler, "scorer": self.scorer, "settings": self.settings}
            rows, pictures = score_variant(variant, folder, steps, **where)
            save_pictures(pictures, self.work_dir / "pictures" / f"{variant.name}.safetensors")
        write_json(self.rows_path(variant), rows)

    def run_report(self) -> None:
        report = assemble(self.work_dir, self.data_dir, asdict(self.settings))
        report["rehearsal"] = self.args.rehearsal
        here, name = self.work_dir / "report", self.args.name
        publish = self.args.publish and not self.args.rehearsal
        results, pictures = (ROOT / RESULTS, ROOT / PICTURES) if publish else (here, here)
        here.mkdir(exist_ok=True)
        write_json(results / f"{name}.json", report)
        (here / "table.md").write_text(table(report), encoding="utf-8")
        draw_grid(report, self.work_dir, pictured_prompts(self.evaluation), pictures / f"{name}_grid.png")
        draw_curves(report, pictures / f"{name}_curves.png")
        print(f"{table(report)}\n{json.dumps(report['targets'], indent=2)}\nwritten to {here}", flush=True)


def write_json(path: Path, values: object) -> None:
    write_whole(path, lambda aside: aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically, because two processes may write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    write(aside)
    aside.replace(path)


def plain_call() -> str:
    return " ".join(["python", "benchmarks/quality.py", *sys.argv[1:]])


@contextmanager
def timed(name: str, work_dir: Path):
    """Print the name of a stage, and save its command, machine and seconds for each run of it."""
    print(f"== {name}", flush=True)
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    paths = (work_dir / f"stage_{name}.json" for name in names)
    start, path = time.monotonic(), next(path for path in paths if not path.exists())
    stage = {"command": plain_call(), "date": today(), **machine()}
    write_json(path, stage)
    yield
    write_json(path, stage | {"seconds": time.monotonic() - start})


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--stage",
        choices=(*STAGES, SCORE),
        help=f"Stage to run; the default is all. {SCORE} scores one variant, and `variants` calls it.",
    )
    parser.add_argument(
        "--output_dir",
        help="Output folder; the default is outputs/quality, or outputs/quality_rehearsal for a rehearsal.",
    )
    parser.add_argument("--data_dir", help="Folder that prepare_data.py wrote; the default is data/ in --output_dir.")
    parser.add_argument(
        "--gpus", nargs="+", default=[], help="Devices to use, such as 0 1; the default is the first one."
    )
    parser.add_argument("--base_processes", type=int, default=1, help="Number of devices that train the base.")
    parser.add_argument("--jobs_per_gpu", type=int, default=4, help="Number of variants to train at once per device.")
    parser.add_argument("--continue_base", help="Folder of a base to train further, instead of a new one.")
    parser.add_argument(
        "--base_minutes",
        type=float,
        default=7.0,
        help="Minutes to train the base's transformer, including start and end.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="Minutes to train and score the variants.")
    parser.add_argument("--steps", type=int, help="Number of optimizer steps of a variant.")
    parser.add_argument(
        "--guidance_scales", type=float, nargs="+", help="Guidance scales to try for the base's best images."
    )
    parser.add_argument("--only", nargs="+", help="Names of the variants to train; the default is all.")
    parser.add_argument(
        "--trained_steps", type=int, help=f"Number of steps that the variant was trained for, for --stage {SCORE}."
    )
    parser.add_argument(
        "--keep_weights", action="store_true", help="Keep the weights of variants after they are scored."
    )
    parser.add_argument("--publish", action="store_true", help="Write the report into benchmarks/results and docs.")
    parser.add_argument("--name", default="quality", help="Start of the names of the report's files.")
    parser.add_argument(
        "--rehearsal", action=argparse.BooleanOptionalAction, help="Use tiny models; the default without a GPU."
    )
    args = parser.parse_args(input_args)
    known = {variant.name for variant in VARIANTS}
    for name in args.only or []:
        if name not in known:
            parser.error(f"--only {name} is no variant: choose from {', '.join(sorted(known))}.")
    if args.rehearsal is None:
        args.rehearsal = not torch.cuda.is_available()
    if args.rehearsal:
        args.only = args.only or list(REHEARSED)
        args.jobs_per_gpu, args.base_minutes = 1, 5.0
    if not args.gpus and torch.cuda.is_available():
        args.gpus = ["0"]
    args.base_gpus = args.gpus[: args.base_processes]
    args.output_dir = args.output_dir or ("outputs/quality_rehearsal" if args.rehearsal else "outputs/quality")
    args.data_dir = args.data_dir or str(Path(args.output_dir) / "data")
    return args


def main(args: argparse.Namespace) -> None:
    os.chdir(ROOT)
    settings = REHEARSAL if args.rehearsal else FULL
    if args.steps:
        settings = replace(settings, steps=args.steps)
    if args.guidance_scales:
        settings = replace(settings, guidance_scales=tuple(args.guidance_scales))
    if args.rehearsal:
        print("REHEARSAL: tiny models, a few steps, digits. It shows that everything runs; its figures mean nothing.")
    benchmark = Benchmark(args, settings)
    if args.stage == SCORE:
        benchmark.run_score()
        return
    for stage in [args.stage] if args.stage else STAGES:
        with timed(stage, benchmark.work_dir):
            getattr(benchmark, f"run_{stage}")()


if __name__ == "__main__":
    main(parse_args())
