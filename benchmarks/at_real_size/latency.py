"""Latency of pipelines: many steps of the stock pipeline with guidance, and few steps of TwinFlow, in turns."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig

from diffusers_twinflow.hub.repository import LORA, TwinFlowRepositoryConfig
from diffusers_twinflow.models import TimeConditioning, enable_twinflow
from diffusers_twinflow.pipelines.pipeline_twinflow import as_twinflow_pipeline

from .measuring import Report, measure, measure_in_turns
from .models import RealModel
from .where_a_call_goes import where_a_call_goes

WARMUP_STEPS = 2
GRAPHS = 64
"""Each kind of block needs a graph per shape."""


class Setting(NamedTuple):
    """How pipelines are called: images per call, whether blocks are compiled, and whether CUDA graphs are used."""

    batch: int
    compiled: bool = False
    graphs: bool = False


class Latency:
    """Measures a stock pipeline and a TwinFlow pipeline on the same weights, with the adapter merged.

    Args:
        resolution: side of the image in pixels.
        backend: backend of torch.compile.
    """

    def __init__(
        self,
        report: Report,
        name: str,
        model: RealModel,
        pipeline: DiffusionPipeline,
        resolution: int,
        backend: str = "inductor",
    ):
        self.report, self.model, self.resolution, self.backend = report, model, resolution, backend
        self.described = {"model": name, "resolution": resolution}
        self.device, self.dtype = pipeline.transformer.device, pipeline.transformer.dtype
        self.pipelines = {"stock": pipeline, "TwinFlow": twinflow_beside(pipeline, model)}

    def call(self, way: str, steps: int, batch: int) -> Callable[..., Any]:
        """Return a call that generates latents in `steps` steps, with the stock pipeline and guidance or with TwinFlow."""
        arguments = {"height": self.resolution, "width": self.resolution, "output_type": "latent"}
        arguments |= self.model.condition(batch, self.device, self.dtype)
        if way == "stock":
            arguments |= self.model.guidance
            if self.model.is_negative_prompted:
                negative = self.model.condition(batch, self.device, self.dtype)
                arguments |= {f"negative_{name}": tensor for name, tensor in negative.items()}
        return functools.partial(self.pipelines[way], num_inference_steps=steps, **arguments)

    def measure_denoising(self, setting: Setting, step_counts: Iterable[int], runs: int) -> None:
        """Return a row for the stock pipeline and a row per step count of TwinFlow."""
        ways = [("stock", steps) for steps in self.model.steps] + [("TwinFlow", steps) for steps in step_counts]
        works = {way: self.call(*way, setting.batch) for way in ways}
        warmups = {
            way: functools.partial(work, num_inference_steps=min(way[1], WARMUP_STEPS)) for way, work in works.items()
        }
        for (way, steps), row in measure_in_turns(works, warmups, self.device, runs).items():
            described = {"way": way, "steps": steps, "what": "denoising", **setting._asdict()}
            self.report.add({"part": "latency", **self.described, **described, **row})

    def measure_decoding(self, batch: int, runs: int) -> None:
        """Measure the decoding of latents, which all pipelines need."""
        pipeline, latents = self.pipelines["stock"], self.model.latents(batch, self.resolution, self.device)

        @torch.no_grad()
        def decode() -> None:
            self.model.family_object.decode_latents(pipeline, latents)

        row = measure(decode, self.device, warmup=1, runs=runs)
        self.report.add({"part": "decoding", **self.described, "batch": batch, **row})

    def measure_apart(self, steps: int, rank: int, runs: int) -> None:
        """Measure a separate adapter, as with `TwinFlowPipeline.from_pretrained(..., merge=False)`; one image per call."""
        transformer = self.pipelines["TwinFlow"].transformer
        targets = self.model.family_object.lora_targets(transformer)
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        try:
            row = measure(self.call("TwinFlow", steps, 1), self.device, warmup=1, runs=runs)
        finally:
            transformer.unload_lora()
        described = {"way": f"TwinFlow, LoRA of rank {rank} not merged", "steps": steps, "what": "denoising"}
        self.report.add({"part": "latency", **self.described, **described, **Setting(1)._asdict(), **row})

    def look_into_calls(self, setting: Setting, step_counts: Iterable[int]) -> None:
        """Profile the host and the device in a call of TwinFlow."""
        for steps in step_counts:
            described = {"way": "TwinFlow", "steps": steps, **setting._asdict()}
            call = self.call("TwinFlow", steps, setting.batch)
            found = where_a_call_goes(call, self.device, self.report, f"a call of {steps} steps")
            self.report.add({"part": "where_a_call_goes", **self.described, **described, **found})

    @contextmanager
    def compiled_blocks(self) -> Iterator[None]:
        """Compile the blocks of both transformers inside the block, and restore them afterwards."""
        with self._compiled(lambda transformer: compile_blocks(transformer, self.backend)):
            yield

    @contextmanager
    def replayed_graphs(self) -> Iterator[None]:
        """Compile both transformers as a whole inside the block, with CUDA graphs."""
        with self._compiled(
            lambda transformer: transformer.compile(fullgraph=True, backend=self.backend, mode="reduce-overhead")
        ):
            yield

    @contextmanager
    def _compiled(self, compile_one: Callable[[ModelMixin], None]) -> Iterator[None]:
        transformers = [pipeline.transformer for pipeline in self.pipelines.values()]
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        try:
            for transformer in transformers:
                compile_one(transformer)
            yield
        finally:
            uncompile(transformers)


def compile_blocks(transformer: ModelMixin, backend: str) -> None:
    """Compile the blocks that repeat, as diffusers does.

    If a class does not say which of its blocks repeat, the blocks that must not be split over devices are compiled.
    """
    kinds = transformer._repeated_blocks or type(transformer)._no_split_modules
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    transformer._repeated_blocks = [kind for kind in kinds if kind != TimeConditioning.__name__]
    transformer.compile_repeated_blocks(fullgraph=True, backend=backend)


def uncompile(transformers: Iterable[ModelMixin]) -> None:
    for module in chain.from_iterable(transformer.modules() for transformer in transformers):
        module._compiled_call_impl = None


def twinflow_beside(pipeline: DiffusionPipeline, model: RealModel) -> DiffusionPipeline:
    """Return a TwinFlow pipeline whose transformer shares the weights of the stock pipeline."""
    transformer = with_same_weights(pipeline.transformer)
    enable_twinflow(transformer)
    beside = type(pipeline)(**(pipeline.components | {"transformer": transformer}))
    beside.set_progress_bar_config(disable=True)
    return as_twinflow_pipeline(beside, TwinFlowRepositoryConfig(LORA, model.family, "random", num_inference_steps=1))


def with_same_weights(transformer: ModelMixin) -> ModelMixin:
    """Return another transformer with the same parameters and buffers."""
    tensors = {id(tensor): tensor for tensor in chain(transformer.parameters(), transformer.buffers())}
    return copy.deepcopy(transformer, tensors)


def speedups(rows: list[dict]) -> list[dict[str, Any]]:
    """Return how many times faster TwinFlow's calls are than the stock calls, by medians in the same setting."""
    rows = [row for row in rows if row["part"] == "latency" and row["what"] == "denoising"]
    shared = ("model", *Setting._fields)
    found = []
    for stock in (row for row in rows if row["way"] == "stock"):
        for row in rows:
            if row["way"] != "stock" and all(row[name] == stock[name] for name in shared):
                entry = {name: row[name] for name in ("model", "way", "steps", *Setting._fields)}
                entry |= {"stock_steps": stock["steps"], "times_faster": stock["seconds"] / row["seconds"]}
                found.append(entry)
    return found
