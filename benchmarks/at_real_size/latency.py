"""Latency of stock pipelines: many guided steps against a few of TwinFlow's, and the scheduler's part of it."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig

from diffusers_twinflow.hub.repository import LORA, TwinFlowRepositoryConfig
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.pipelines.pipeline_twinflow import as_twinflow_pipeline

from .measuring import Report, measure, synchronize
from .models import RealModel


class LatencyRows:
    """Measures calls of one pipeline object, first the stock one, then with TwinFlow's scheduler and time conditioning.

    Args:
        resolution: side of the picture in pixels.
        runs: timed calls of each row.
    """

    def __init__(
        self, report: Report, name: str, model: RealModel, pipeline: DiffusionPipeline, resolution: int, runs: int
    ):
        self.report, self.name, self.model, self.pipeline = report, name, model, pipeline
        self.resolution, self.runs = resolution, runs
        self.device, self.dtype = pipeline.transformer.device, pipeline.transformer.dtype

    def call(self, steps: int, is_guided: bool, output_type: str) -> Any:
        """One picture by the stock call's arguments, or by TwinFlow's."""
        prompt = self.model.condition(1, self.device, self.dtype)
        arguments = {"height": self.resolution, "width": self.resolution, "num_inference_steps": steps, **prompt}
        if is_guided:
            arguments |= self.model.guidance
            if self.model.is_negative_prompted:
                negative = self.model.condition(1, self.device, self.dtype)
                arguments |= {f"negative_{name}": tensor for name, tensor in negative.items()}
        return self.pipeline(**arguments, output_type=output_type)

    def measure_stock(self) -> None:
        for steps in self.model.steps:
            self._add("stock", steps, is_guided=True)

    def measure_twinflow(self, step_counts: list[int]) -> None:
        """With the adapter merged into the weights, so that the time conditioning is what the steps cost more."""
        enable_twinflow(self.pipeline.transformer)
        config = TwinFlowRepositoryConfig(LORA, self.model.family, "random", num_inference_steps=step_counts[-1])
        as_twinflow_pipeline(self.pipeline, config)
        for steps in step_counts:
            self._add("TwinFlow", steps, is_guided=False)

    def measure_apart(self, steps: int, rank: int) -> None:
        """With the adapter beside the weights, as `TwinFlowPipeline.from_pretrained` loads it."""
        family = self.model.family_object
        targets = family.lora_targets(self.pipeline.transformer)
        self.pipeline.transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        self._add(f"TwinFlow, LoRA of rank {rank} not merged", steps, is_guided=False)

    def _add(self, way: str, steps: int, is_guided: bool) -> None:
        outputs = {"denoising": "latent"} | ({"picture": "pil"} if self.model.vae else {})
        for part, output_type in outputs.items():
            row = measure(
                lambda output_type=output_type: self.call(steps, is_guided, output_type),
                self.device,
                warmup=1,
                runs=self.runs,
            )
            described = {"model": self.name, "way": way, "steps": steps, "resolution": self.resolution, "what": part}
            if part == "denoising":
                with scheduler_seconds(self.pipeline.scheduler, self.device) as taken:
                    self.call(steps, is_guided, output_type)
                row["scheduler"] = taken
            self.report.add({"part": "latency", **described, **row})


@contextmanager
def scheduler_seconds(scheduler, device: torch.device) -> Iterator[dict[str, float]]:
    """What `step` takes in the block, all calls together: on the device by its events, and on the host.

    On the device that is from the first to the last of its kernels; where the device waits for the host, the wait counts.
    """
    events, taken, step = [], {"host_seconds": 0.0, "device_seconds": None, "calls": 0}, scheduler.step

    @functools.wraps(step)
    def timed_step(*args, **kwargs):
        if device.type == "cuda":
            events.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
            events[-1][0].record()
        start = time.perf_counter()
        result = step(*args, **kwargs)
        taken["host_seconds"] += time.perf_counter() - start
        taken["calls"] += 1
        if device.type == "cuda":
            events[-1][1].record()
        return result

    scheduler.step = timed_step
    try:
        yield taken
    finally:
        del scheduler.step
        synchronize(device)
        if events:
            taken["device_seconds"] = sum(first.elapsed_time(last) for first, last in events) / 1000


def speedups(rows: list[dict]) -> list[dict[str, Any]]:
    """How many times faster than each stock call each of TwinFlow's is, by the medians of the denoising."""
    rows = [row for row in rows if row["part"] == "latency" and row["what"] == "denoising"]
    found = []
    for stock in (row for row in rows if row["way"] == "stock"):
        for row in rows:
            if row["model"] == stock["model"] and row["way"] != "stock":
                entry = {"model": row["model"], "way": row["way"], "steps": row["steps"]}
                entry |= {"stock_steps": stock["steps"], "times_faster": stock["seconds"] / row["seconds"]}
                found.append(entry)
    return found
