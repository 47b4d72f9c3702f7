#!/usr/bin/env python
"""Training steps of small batches at SD3.5-medium size: seconds, memory, launches and compilation.

Every row is a step of `Trainer` on a base with random weights: TwinFlow on a LoRA of rank 64 and on all weights, with order 2,
adversarial branch and rectification, and flow matching of the same LoRA. Each is measured eager, compiled, and with CUDA
graphs. Batches of 4 are also profiled: how long the GPU is busy, and what the CPU does. The first compiled row of each kind
starts with an empty compiler cache, and later rows of that kind use the filled cache. The part "exact_bf16" compares gradients
and losses with and without CUDA graphs on a model of four layers, and "exact_no" does so without mixed precision. Without a
GPU this is a tiny rehearsal without CUDA graphs.

    python benchmarks/small_batches.py --parts lora_compiled full_compiled --minutes 5

With `--limit`, each part is a process that ends after this many seconds, and its rows so far are kept. The parts of
`--together` run at the same time, before the others:

    python benchmarks/small_batches.py --limit 60 --parts lora_eager lora_1024 --together exact_bf16 lora_compiled

With `--starts`, it measures only how long compiled runs take to start. Each is a process, first with an empty cache of the
compiler and then with the cache that the first one left. `--before` adds the same of another version of the package:

    mkdir .before && git archive 2901c48 src | tar -x -C .before
    python benchmarks/small_batches.py --starts lora flow_matching --before .before/src --limit 75
"""

import argparse
import dataclasses
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import psutil
import torch
from torch._dynamo.utils import compilation_time_metrics, counters
from torch._inductor.utils import fresh_cache

import diffusers_twinflow
from at_real_size import exactness
from at_real_size.building import random_transformer
from at_real_size.measuring import Report, add_common_arguments, announce, graph_pools_gib, measure, timed
from at_real_size.models import SD35_MEDIUM
from at_real_size.ours import FULL_TWINFLOW, OurTraining, run_options
from at_real_size.processes import run_apart
from at_real_size.stack_samples import StackSamples
from at_real_size.where_a_call_goes import device_busy, host_functions, synchronizations
from diffusers_twinflow.training.compilation import compiled_graphs

WAYS = {
    "lora": ("LoRA, TwinFlow", FULL_TWINFLOW),
    "full": ("full weights, TwinFlow", [*FULL_TWINFLOW, "--train_type=full"]),
    "flow_matching": ("LoRA, flow matching", []),
}
PROFILED_BATCH = 4
PROFILED_STEPS = 4
"""Number of profiled steps. They differ in the samples of their passes."""
STEPS_UNTIL_RECORDED = 8
"""More steps before the timed ones with CUDA graphs, because a pass is recorded when its shape occurs again."""
TINY_RESOLUTION = 64
EXACT = "exact_"
FIRST = "first"
SHORTEST_PHASE = 0.05
"""Seconds below which a phase of compilation is not reported."""


@dataclasses.dataclass(frozen=True)
class Setting:
    way: str
    batch: int = 4
    resolution: int = 512
    compiled: bool = False
    cuda_graphs: bool = False

    def options(self, args: argparse.Namespace, cuda_graphs: bool) -> list[str]:
        """Arguments of the training command."""
        options = [f"--rank={args.rank}", *WAYS[self.way][1]]
        return options + ["--compile"] * self.compiled + ["--cuda_graphs"] * cuda_graphs


def settings(part: str) -> list[Setting]:
    """Return the rows of a part, in the order of their measurement."""
    way, _, kind = part.rpartition("_")
    rows = {
        "eager": [Setting(way, cuda_graphs=True), Setting(way)],
        "compiled": [
            Setting(way, compiled=True),
            Setting(way, compiled=True, cuda_graphs=True),
            Setting(way, compiled=True, batch=16),
        ],
        FIRST: [Setting(way, compiled=True)],
        "16": [Setting(way, batch=16)],
        "1024": [Setting(way, resolution=1024, cuda_graphs=True), Setting(way, resolution=1024)],
    }[kind]
    return rows


PARTS = [
    *(EXACT + precision for precision in exactness.WAYS),
    *(f"{way}_{kind}" for kind in ("compiled", "eager", "16", "1024") for way in WAYS),
]
STARTS = [f"{way}_{FIRST}" for way in WAYS]
"""Parts of the processes of --starts."""


@contextmanager
def training_of(args: argparse.Namespace, setting: Setting) -> Iterator[OurTraining]:
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = SD35_MEDIUM.tiny() if args.tiny else SD35_MEDIUM
    dtype = torch.float32 if setting.way == "full" else torch.bfloat16
    transformer = random_transformer(model, device, dtype)
    latents = model.latents(setting.batch, TINY_RESOLUTION if args.tiny else setting.resolution, device)
    options = run_options(setting.batch, False, *setting.options(args, setting.cuda_graphs and device.type == "cuda"))
    training = OurTraining(model, transformer, options, latents)
    try:
        yield training
    finally:
        training.close()


def measure_setting(args: argparse.Namespace, setting: Setting, report: Report) -> dict:
    """Return the seconds per step, the peak memory, the compile time, and where the time of a step goes."""
    torch.compiler.reset()
    counters.clear()
    compilation_time_metrics.clear()
    device = torch.device(args.device)
    steps = args.warmup + STEPS_UNTIL_RECORDED * (setting.cuda_graphs and not args.tiny)
    begun, warmup, gradient_norms = time.monotonic(), [], []
    with training_of(args, setting) as training:
        prepare_seconds = time.monotonic() - begun
        with watched_compilation(report, setting), StackSamples() as samples:
            for step in range(steps):
                warmup.append(timed(training.step, device))
                if step == 0:
                    process_seconds = time.time() - psutil.Process().create_time()
                gradient_norms.append(None if training.grad_norm is None else training.grad_norm.item())
        graphs = compiled_graphs()
        row = measure(training.step, device, warmup=0, runs=args.runs)
        row |= {
            "profiled_steps": PROFILED_STEPS,
            "package_version": diffusers_twinflow.__version__,
            "prepare_seconds": prepare_seconds,
            "process_seconds_until_second_step": process_seconds,
            "warmup_seconds": warmup,
            "warmup_gradient_norms": gradient_norms,
            "merged": training.trainer.merged is not None,
        }
        if setting.cuda_graphs and row["peak_gib"]:
            row["graph_pools_gib"] = graph_pools_gib()
            row["peak_gib"] += row["graph_pools_gib"]
        row["graphs_in_timed_steps"] = compiled_graphs() - graphs
        if setting.compiled:
            row |= {"compile_seconds": sum(warmup) - len(warmup) * row["seconds"], "graphs": graphs}
            row["compile_phases"] = phases_of_compilation()
            row["cache"] = {name: count for name, count in counters["inductor"].items() if "cache" in name}
            row["warmup_functions"] = samples.seconds_by_function()
        if setting.batch == PROFILED_BATCH and not args.cache:
            for look in (device_busy,) if args.only_busy else (device_busy, synchronizations, host_functions):
                with report.noted(f"{setting}: {look.__name__}"):
                    row |= look(partial(take_steps, training), device)
    return row


@contextmanager
def watched_compilation(report: Report, setting: Setting) -> Iterator[None]:
    """Record in the report when each graph was compiled, so that it is known even if the process is ended."""
    begun, is_over, found = time.monotonic(), threading.Event(), [0]
    if setting.compiled:
        times: list[float] = []
        report.result.setdefault("compiling", []).append({"setting": str(setting), "graph_seconds": times})

        def watch() -> None:
            while not is_over.wait(0.5):
                if (graphs := compiled_graphs()) > found[0]:
                    times.extend([round(time.monotonic() - begun, 1)] * (graphs - found[0]))
                    found[0] = graphs
                    report.save()

        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def take_steps(training: OurTraining) -> None:
    for _ in range(PROFILED_STEPS):
        training.step()


def phases_of_compilation() -> dict[str, float]:
    """Return the seconds of each phase of dynamo and inductor. Phases contain other phases."""
    phases = {name: sum(seconds) for name, seconds in compilation_time_metrics.items()}
    return {name: round(seconds, 2) for name, seconds in phases.items() if seconds >= SHORTEST_PHASE}


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser, [*PARTS, *STARTS], "small_batches")
    parser.set_defaults(parts=PARTS)
    parser.add_argument("--warmup", type=int, default=5, help="Number of steps before the timed ones.")
    parser.add_argument(
        "--runs", type=int, default=2 if parser.get_default("tiny") else 8, help="Number of timed steps per row."
    )
    parser.add_argument("--only_busy", action="store_true", help="Profile only how long the GPU is busy.")
    parser.add_argument("--limit", type=float, help="Run each part as a process with this limit in seconds.")
    parser.add_argument("--together", nargs="+", choices=PARTS, default=[], help="Parts that run first, all at once.")
    parser.add_argument(
        "--together_limit", type=float, help="Limit in seconds of the parts in --together; the default is --limit."
    )
    parser.add_argument("--starts", nargs="+", choices=WAYS, default=[], help="Measure only the start of these.")
    parser.add_argument("--again", nargs="*", choices=WAYS, help="Which of --starts to start again. Default: all.")
    parser.add_argument("--before", help="Folder of another version of the package, to measure its starts as well.")
    parser.add_argument("--cache", help="Folder of the compiler's cache, which remains. Default: a new one per part.")
    args = parser.parse_args(input_args)
    args.again = args.starts if args.again is None else args.again
    if args.starts and not args.limit:
        parser.error("--starts needs --limit, because it starts processes.")
    if args.together and not args.limit:
        parser.error("--together needs --limit, because its parts are processes.")
    return args


def run_part(args: argparse.Namespace, part: str, report: Report) -> None:
    """Measure the rows of a part in this process."""
    name = "tiny SD3.5-medium" if args.tiny else "SD3.5-medium"
    if part.startswith(EXACT):
        precision = part.removeprefix(EXACT)
        for way in exactness.WAYS[precision]:
            if not report.is_over(way):
                with report.guarded(way):
                    row = exactness.compare(args, precision, way)
                    report.add({"model": f"{name}, {exactness.LAYERS} layers", **row})
        return
    with nullcontext() if args.cache else fresh_cache():
        for setting in settings(part):
            row = {"model": name, **dataclasses.asdict(setting), "name": WAYS[setting.way][0], "rank": args.rank}
            label = f"{part}: {row}"
            if not report.is_over(label):
                with report.guarded(label):
                    report.add(row | measure_setting(args, setting, report))


def common_arguments(args: argparse.Namespace) -> list[str]:
    """The arguments of every process."""
    common = [f"--device={args.device}", "--tiny" if args.tiny else "--no-tiny", f"--rank={args.rank}"]
    return common + [f"--warmup={args.warmup}", f"--runs={args.runs}", *["--only_busy"] * args.only_busy]


def compare_starts(args: argparse.Namespace, report: Report) -> None:
    """Start each way with an empty cache and again with the filled one, in this version and in the one before.

    Starts of one way run at the same time, and together with the second starts of the way before it.
    """
    versions = {"": None, "_before": args.before} if args.before else {"": None}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        waiting: list[str] = []
        for way in [*args.starts, None] if args.starts[-1] in args.again else args.starts:
            ways = dict.fromkeys(waiting, "again") | ({way: FIRST} if way else {})
            commands, environments = {}, {}
            for (name, start), (version, source) in itertools.product(ways.items(), versions.items()):
                part = f"{name}_{start}{version}"
                cache = folder / f"cache_{name}{version}"
                commands[part] = [__file__, *common_arguments(args), "--parts", f"{name}_{FIRST}", f"--cache={cache}"]
                paths = [source and str(Path(source).resolve()), os.environ.get("PYTHONPATH")]
                environments[part] = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
            run_apart(report, commands, folder, args.limit, environments)
            waiting = [way] if way in args.again else []
    for row in report.result["rows"]:
        print(described_start(row), flush=True)


def described_start(row: dict) -> str:
    """A line with what a start took."""
    steps = ", ".join(f"{seconds:.2f}" for seconds in row["warmup_seconds"])
    return (
        f"{row['part']:28} prepare {row['prepare_seconds']:.1f} s, first steps {steps} s, later steps {row['seconds']:.3f} s, "
        f"{row['graphs']} graphs, compiled {row['compile_seconds']:.1f} s, peak {row['peak_gib']} GiB, cache {row['cache']}, "
        f"gradient norms {row['warmup_gradient_norms']}"
    )


def run_parts_apart(args: argparse.Namespace, report: Report) -> None:
    """Run each part as a process with a limit."""
    common = common_arguments(args)
    apart = [part for part in args.parts if part not in args.together]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(f"{args.output}.parts" if args.output else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for parts, limit in [
            (args.together, args.together_limit or args.limit),
            *(([part], args.limit) for part in apart),
        ]:
            if parts and not report.is_over(" ".join(parts)):
                commands = {part: [__file__, *common, "--parts", part] for part in parts}
                run_apart(report, commands, folder, limit)


def main(args: argparse.Namespace) -> int:
    if args.cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = args.cache
    announce(args)
    report = Report(args, args.output, args.minutes)
    if args.starts:
        compare_starts(args, report)
    elif args.limit:
        run_parts_apart(args, report)
    else:
        for part in args.parts:
            run_part(args, part, report)
    announce(args)
    return report.exit_code()


if __name__ == "__main__":
    raise SystemExit(main(parse_args()))
