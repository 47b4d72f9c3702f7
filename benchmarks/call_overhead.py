#!/usr/bin/env python
"""Time that a pipeline call spends on the CPU outside of the model: stock and TwinFlow, with a thin transformer.

The transformer has as many layers as Stable Diffusion 3.5 medium and a width of 64, so that its arithmetic is small, but it has
as many modules as the real model. Prompts are given as embeddings, and the call returns latents.

    python benchmarks/call_overhead.py --output benchmarks/results/call_overhead_cpu.json
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from diffusers import DiffusionPipeline

from at_real_size.building import random_pipeline
from at_real_size.measuring import Report
from at_real_size.models import SD35_MEDIUM, RealModel
from diffusers_twinflow.hub.repository import LORA, TwinFlowRepositoryConfig
from diffusers_twinflow.models import enable_twinflow, is_twinflow_transformer
from diffusers_twinflow.pipelines import as_twinflow_pipeline

WIDTH = {"attention_head_dim": 16, "num_attention_heads": 4, "caption_projection_dim": 64}
RESOLUTION = 64


def thin_model() -> RealModel:
    """Return a tiny model with as many layers as the real one."""
    layers = {name: SD35_MEDIUM.transformer[name] for name in ("num_layers", "dual_attention_layers", "qk_norm")}
    tiny = SD35_MEDIUM.tiny()
    return dataclasses.replace(tiny, transformer={**tiny.transformer, **WIDTH, **layers})


@contextmanager
def counted_seconds(owner, name: str) -> Iterator[Callable[[], float]]:
    """Time the calls of `owner.name` in the block. The yielded function returns the seconds since its last call."""
    method, was_own, seconds = getattr(owner, name), name in vars(owner), [0.0]

    @functools.wraps(method)
    def timed_method(*args, **kwargs):
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[0] += time.perf_counter() - start

    def taken() -> float:
        value, seconds[0] = seconds[0], 0.0
        return value

    setattr(owner, name, timed_method)
    try:
        yield taken
    finally:
        setattr(owner, name, method) if was_own else delattr(owner, name)


def seconds_of(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_call(pipeline: DiffusionPipeline, stock_class: type, arguments: dict, runs: int) -> dict[str, float]:
    """Return the median milliseconds of a call and of its parts."""
    rows = []
    with ExitStack() as stack:
        timers = {
            "transformer": stack.enter_context(counted_seconds(pipeline.transformer, "forward")),
            "scheduler": stack.enter_context(counted_seconds(pipeline.scheduler, "step")),
            "stock_call": stack.enter_context(counted_seconds(stock_class, "__call__")),
        }
        if is_twinflow_transformer(pipeline.transformer):
            conditioning = pipeline.transformer.time_conditioning
            timers["target_times"] = stack.enter_context(counted_seconds(pipeline.transformer, "_scheduled_target"))
            timers["conditioning"] = stack.enter_context(counted_seconds(conditioning, "forward"))
        for _ in range(runs + 1):
            call = seconds_of(lambda: pipeline(**arguments))
            row = {"call": call, **{name: taken() for name, taken in timers.items()}}
            row["twinflow_pipeline"] = call - row.pop("stock_call")
            row["outside_steps"] = call - row["transformer"] - row["scheduler"]
            row["finding_the_device"] = seconds_of(lambda: pipeline._execution_device)
            rows.append(row)
    return {f"{name}_ms": 1000 * statistics.median(row[name] for row in rows[1:]) for name in rows[0]}


def main(args: argparse.Namespace) -> int:
    report, model, device = Report(args, args.output, args.minutes), thin_model(), torch.device("cpu")
    torch.set_num_threads(1)
    pipeline = random_pipeline(model, device, torch.float32)
    stock_class, prompt = type(pipeline), model.condition(1, device, torch.float32)
    arguments = {
        "height": RESOLUTION,
        "width": RESOLUTION,
        "output_type": "latent",
        "num_inference_steps": 1,
        **prompt,
    }

    def add(way: str, **more) -> None:
        measured = measure_call(pipeline, stock_class, arguments | more, args.runs)
        layers = model.transformer["num_layers"]
        report.add({"way": way, "steps": 1, "layers": layers, "runs": args.runs, **measured})

    add("stock", guidance_scale=1.0)
    enable_twinflow(pipeline.transformer)
    as_twinflow_pipeline(pipeline, TwinFlowRepositoryConfig(LORA, model.family, "random", num_inference_steps=1))
    add("TwinFlow")
    return report.exit_code()


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="Number of timed calls.")
    parser.add_argument("--output", help="JSON file for the results.")
    parser.set_defaults(device="cpu", tiny=False, minutes=60.0)
    return parser.parse_args(input_args)


if __name__ == "__main__":
    raise SystemExit(main(parse_args()))
