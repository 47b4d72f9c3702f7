#!/usr/bin/env python
"""Speed of sampling and training at real size, with random weights. Without a GPU this is a tiny rehearsal.

- Latency: a stock pipeline with guidance at its usual step count, and TwinFlow at 4, 2 and 1 steps without guidance. Each is
  measured with one and with several images per call: eager, with CUDA graphs and with compiled blocks.
- Training: a step of diffusers' LoRA example, and our steps of flow matching and TwinFlow, on the same base and batch. With
  `--reference_dir`, a checkout of the TwinFlow authors' repository, also their step.

    python benchmarks/speed.py --parts sd3 flux --minutes 5
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial

import torch

from at_real_size.building import random_pipeline, random_transformer
from at_real_size.diffusers_example import TARGET_MODULES, ExampleTraining
from at_real_size.latency import Latency, Setting, speedups
from at_real_size.measuring import Report, add_common_arguments, allocated_gib, announce, measure, timed
from at_real_size.models import FLUX_DEV, QWEN_IMAGE, SD35_MEDIUM, RealModel
from at_real_size.ours import FULL_TWINFLOW, OurTraining, run_options
from at_real_size.reference import ReferenceTraining

LATENCY = {"sd3": SD35_MEDIUM, "flux": FLUX_DEV, "qwen": QWEN_IMAGE}
NAMES = {"sd3": "SD3.5-medium", "flux": "FLUX.1-dev", "qwen": "Qwen-Image"}
BATCHES = {"sd3": [1, 4], "flux": [1], "qwen": [1]}
STEP_COUNTS = [4, 2, 1]
TRAINING = {
    "training_1024": {"resolution": 1024, "batch": 4, "gradient_checkpointing": True},
    "training_512": {"resolution": 512, "batch": 4, "gradient_checkpointing": False},
}
TINY_RESOLUTION = 64
TRAINING_RUNS, LATENCY_RUNS, LARGE_BATCH_RUNS, TINY_RUNS = 8, 5, 2, 2


def number_of_runs(args, default: int) -> int:
    return args.runs or (TINY_RUNS if args.tiny else default)


def measure_latency(args, report: Report, part: str) -> None:
    """Measure groups of rows, the most important first. If one fails, the others still run."""
    model, name, resolution, backend = LATENCY[part], NAMES[part], 1024, "inductor"
    if args.tiny:
        model, name, resolution, backend = model.tiny(), f"tiny {name}", TINY_RESOLUTION, "eager"
    device, built = torch.device(args.device), {}

    def build() -> None:
        pipeline = random_pipeline(model, device, torch.bfloat16)
        built["latency"] = Latency(report, name, model, pipeline, resolution, backend)

    seconds = timed(build, device)
    report.add({"part": "building", "model": name, "seconds": seconds, "resident_gib": allocated_gib(device)})
    for label, measure_group in latency_groups(args, built["latency"], args.batches or BATCHES[part]):
        if not report.is_over(f"{part}: {label}"):
            with report.guarded(f"{part}: {label}"):
                measure_group()


def latency_groups(args, latency: Latency, batches: list[int]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Return the groups of rows of a model by name, in this order."""
    runs = {batch: number_of_runs(args, LATENCY_RUNS if batch == 1 else LARGE_BATCH_RUNS) for batch in batches}
    for batch in batches:
        yield (
            f"denoising, batch {batch}",
            partial(latency.measure_denoising, Setting(batch), STEP_COUNTS, runs[batch]),
        )
    yield "where a call goes", partial(latency.look_into_calls, Setting(batches[0]), [2, 1])
    if latency.model.vae:
        yield "decoding", partial(latency.measure_decoding, batches[0], number_of_runs(args, LATENCY_RUNS))
    yield "LoRA not merged", partial(latency.measure_apart, 2, args.rank, number_of_runs(args, LATENCY_RUNS))
    if not args.compiled:
        return
    with latency.replayed_graphs():
        setting = Setting(batches[0], graphs=True)
        yield "denoising, CUDA graphs", partial(latency.measure_denoising, setting, STEP_COUNTS, runs[batches[0]])
    with latency.compiled_blocks():
        for batch in batches:
            setting = Setting(batch, compiled=True)
            yield (
                f"denoising, compiled, batch {batch}",
                partial(latency.measure_denoising, setting, STEP_COUNTS, runs[batch]),
            )
            if batch == batches[0]:
                yield "where a compiled call goes", partial(latency.look_into_calls, setting, [2, 1])


def training_ways(args, setting: dict) -> dict[str, tuple[torch.dtype, partial]]:
    """Return the dtype of the base and the function that builds the trainer, by row. All but the last train the same layers."""
    batch, checkpointing = setting["batch"], setting["gradient_checkpointing"]
    adapters = {"rank": args.rank, "gradient_checkpointing": checkpointing}

    def ours(*options: str):
        given = run_options(batch, checkpointing, f"--rank={args.rank}", *options)
        return lambda model, transformer, latents: OurTraining(model, transformer, given, latents)

    same_layers = ["--lora_layers", *TARGET_MODULES]
    ways = {
        "diffusers' example": (torch.bfloat16, partial(ExampleTraining, **adapters)),
        "ours, flow matching": (torch.bfloat16, ours(*same_layers, "--weighting_scheme=logit_normal")),
        "ours, TwinFlow": (torch.bfloat16, ours(*same_layers, *FULL_TWINFLOW)),
    }
    if args.reference_dir:
        reference = partial(ReferenceTraining, checkout=args.reference_dir, target_modules=TARGET_MODULES, **adapters)
        ways["authors' TwinFlow"] = (torch.bfloat16, reference)
        ways["authors' TwinFlow, base in float32 as in their script"] = (torch.float32, reference)
    ways["ours, TwinFlow, all the layers of our default"] = (torch.bfloat16, ours(*FULL_TWINFLOW))
    return ways


def measure_training(args, report: Report, part: str) -> None:
    setting, model, name = dict(TRAINING[part]), SD35_MEDIUM, NAMES["sd3"]
    if args.tiny:
        model, name, setting["resolution"] = model.tiny(), f"tiny {name}", TINY_RESOLUTION
    for way, (dtype, build) in training_ways(args, setting).items():
        label = f"{part}: {way}"
        if report.is_over(label):
            continue
        with report.guarded(label):
            row = {"part": "training", "model": name, "way": way, **setting, "rank": args.rank}
            report.add(row | measure_way(args, model, setting, dtype, build))


def measure_way(args, model: RealModel, setting: dict, dtype: torch.dtype, build) -> dict:
    """Return the seconds per step, samples per second and memory of one way of training."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    built = {}

    def make() -> None:
        transformer = random_transformer(model, device, dtype)
        latents = model.latents(setting["batch"], setting["resolution"], device)
        built["training"] = build(model, transformer, latents)

    build_seconds = timed(make, device)
    training = built.pop("training")
    try:
        resident = allocated_gib(device)
        row = measure(training.step, device, warmup=3, runs=number_of_runs(args, TRAINING_RUNS))
        row |= {"samples_per_second": setting["batch"] / row["seconds"], "resident_gib": resident}
        return row | {"trained_parameters": training.trained_parameters, "build_seconds": build_seconds}
    finally:
        training.close()


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser, [*LATENCY, *TRAINING], "speed")
    parser.add_argument(
        "--runs",
        type=int,
        help="Number of timed calls per row; the default is 8 for training, 5 for sampling and 2 for batches.",
    )
    parser.add_argument(
        "--batches", nargs="+", type=int, help="Numbers of images per call; the default is 1, and 1 and 4 for SD3.5."
    )
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, default=True, help="Also measure compiled models."
    )
    parser.add_argument("--reference_dir", "--reference-dir", help="Checkout of the TwinFlow authors' repository.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> int:
    announce(args)
    report = Report(args, args.output, args.minutes)
    for part in args.parts:
        if report.is_over(part):
            continue
        with report.guarded(part):
            if part in LATENCY:
                measure_latency(args, report, part)
            else:
                measure_training(args, report, part)
    report.result["speedups"] = speedups(report.result["rows"])
    for row in report.result["speedups"]:
        print(json.dumps(row))
    report.save()
    announce(args)
    return report.exit_code()


if __name__ == "__main__":
    raise SystemExit(main(parse_args()))
