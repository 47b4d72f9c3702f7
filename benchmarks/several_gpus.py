#!/usr/bin/env python
"""Speed and memory of a TwinFlow training step on one GPU and on several, at real size with random weights.

This is a step of `Trainer`, started by `accelerate launch` with the configurations of `examples/accelerate`, for a LoRA and for
all weights. Each GPU has the same number of samples per step. Without a GPU this is a tiny rehearsal in CPU processes, without
FSDP2, which accelerate does not support on CPUs.

    python benchmarks/several_gpus.py --processes 2 --parts lora_one lora_ddp --minutes 5
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import PartialState

from at_real_size.building import random_transformer
from at_real_size.measuring import Report, add_common_arguments, announce, measure
from at_real_size.models import SD35_MEDIUM
from at_real_size.ours import FULL_TWINFLOW, OurTraining, run_options
from quality.launching import run_logged

CONFIGURATIONS = Path(__file__).parents[1] / "examples" / "accelerate"
RESOLUTION, TINY_RESOLUTION = 512, 64
BATCH = 4
"""Samples per GPU and step: one of each branch."""
WARMUP, RUNS, TINY_RUNS = 3, 8, 2
LONGEST_ROW = 200
"""Time limit of a row in seconds."""
ONE = "one"
WAYS = {
    f"{train_type}_{kind}": (train_type, kind) for train_type in ("lora", "full") for kind in (ONE, "ddp", "fsdp2")
}


def launch_command(way: str, args: argparse.Namespace, row_file: str) -> list[str]:
    """Return the command that measures one way in new processes and writes its row."""
    _, kind = WAYS[way]
    before = []
    if kind != ONE and args.device == "cpu":
        before = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={args.processes}"]
    elif kind != ONE:
        before = ["-m", "accelerate.commands.launch", f"--num_processes={args.processes}"]
        before.append(f"--config_file={CONFIGURATIONS / kind}.yaml")
    tiny = "--tiny" if args.tiny else "--no-tiny"
    return [
        *(sys.executable, *before, __file__, f"--measure={way}", f"--output={row_file}"),
        *(f"--device={args.device}", tiny, f"--rank={args.rank}", f"--runs={args.runs}"),
    ]


def measure_way(args: argparse.Namespace) -> None:
    """Measure a way as one of its processes, and write its row."""
    train_type, model, resolution = WAYS[args.measure][0], SD35_MEDIUM, RESOLUTION
    if args.tiny:
        model, resolution = model.tiny(), TINY_RESOLUTION
    options = run_options(BATCH, True, f"--rank={args.rank}", f"--train_type={train_type}", *FULL_TWINFLOW)
    device = PartialState(cpu=args.device == "cpu").device
    torch.manual_seed(0)
    transformer = random_transformer(model, device, torch.float32 if train_type == "full" else torch.bfloat16)
    training = OurTraining(model, transformer, options, model.latents(BATCH, resolution, device))
    row = measure(training.step, device, warmup=WARMUP, runs=args.runs)
    peaks = training.accelerator.gather(torch.tensor([row["peak_gib"] or 0.0], device=device))
    row |= {
        "processes": training.accelerator.num_processes,
        "peak_gib": float(peaks.max()) or None,
        "samples_per_second": training.step_samples / row["seconds"],
        "last_gradient_norm": float(training.grad_norm),
    }
    if training.accelerator.is_main_process:
        Path(args.output).write_text(json.dumps(row), encoding="utf-8")
    training.close()
    training.accelerator.wait_for_everyone()
    training.accelerator.end_training()


def launched_row(args: argparse.Namespace, way: str) -> dict:
    """Return the row of a way, measured in new processes."""
    with tempfile.TemporaryDirectory() as directory:
        row_file = Path(directory, "row.json")
        command = launch_command(way, args, str(row_file))
        run_logged(command, Path(directory, "log"), deadline=time.monotonic() + LONGEST_ROW)
        return json.loads(row_file.read_text(encoding="utf-8"))


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser, list(WAYS), "several_gpus")
    parser.add_argument("--processes", type=int, default=2, help="Number of GPUs for the rows with several.")
    parser.add_argument(
        "--runs", type=int, default=TINY_RUNS if parser.get_default("tiny") else RUNS, help="Number of timed steps."
    )
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> int:
    if args.measure:
        measure_way(args)
        return 0
    announce(args)
    report = Report(args, args.output, args.minutes)
    for way in args.parts:
        train_type, kind = WAYS[way]
        if args.device == "cpu" and kind == "fsdp2":
            print(f"--- {way}: needs GPUs", flush=True)
        elif not report.is_over(way):
            with report.guarded(way):
                described = {"model": "tiny SD3.5-medium" if args.tiny else "SD3.5-medium", "train_type": train_type}
                described |= {"kind": kind, "batch": BATCH, "rank": args.rank}
                described |= {"resolution": TINY_RESOLUTION if args.tiny else RESOLUTION}
                report.add({"part": way, **described, **launched_row(args, way)})
    announce(args)
    return report.exit_code()


if __name__ == "__main__":
    raise SystemExit(main(parse_args()))
