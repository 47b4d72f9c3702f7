#!/usr/bin/env python
"""Time of a call with a merged LoRA, compared with a stock pipeline that makes the same evaluations, at real size on a GPU.

A base of a published size with random weights and a LoRA are saved, and then loaded as users load them. The stock pipeline
uses diffusers' scheduler at the same sigmas, without guidance. All pipelines take turns. After unloading, the base's weights
are compared with its files. Without a GPU this is a tiny rehearsal.

    python benchmarks/merged_lora.py --parts eager compiled unloading offloading
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from peft import LoraConfig

from at_real_size.building import random_pipeline
from at_real_size.latency import compile_blocks, uncompile
from at_real_size.measuring import (
    Report,
    add_common_arguments,
    allocated_gib,
    announce,
    measure_in_turns,
    private_gib,
    timed,
)
from at_real_size.models import SD35_MEDIUM, RealModel
from diffusers_twinflow import TwinFlowPipeline, unload_twinflow_lora
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_lora
from diffusers_twinflow.hub.repository import LORA
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.schedulers import TwinFlowScheduler

STEPS = 2
STOCK, MERGED, SEPARATE = "stock", "TwinFlow, LoRA merged", "TwinFlow, LoRA separate"
PARTS = ("eager", "compiled", "unloading", "offloading")
TINY_RESOLUTION = 64


class Case:
    """A base and a LoRA on disk, and the pipelines that are loaded from them.

    Args:
        folder: where they are saved.
    """

    def __init__(self, args: argparse.Namespace, report: Report, model: RealModel, folder: Path):
        self.report, self.model, self.device = report, model, torch.device(args.device)
        self.base, self.lora, self.dtype = folder / "base", folder / "lora", torch.bfloat16
        self.resolution = TINY_RESOLUTION if args.tiny else 1024
        self.runs, self.backend = args.runs, "eager" if args.tiny else "inductor"
        self.pipelines: dict[str, DiffusionPipeline] = {}
        torch.manual_seed(0)
        pipeline = random_pipeline(model, self.device, self.dtype)
        pipeline.save_pretrained(self.base)
        save_random_lora(pipeline, model, str(self.base), self.lora, args.rank)

    def load(self, way: str) -> DiffusionPipeline:
        if way == STOCK:
            pipeline = load_stock_pipeline(self.model.family_object, self.base, dtype=self.dtype)
            pipeline.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
        else:
            pipeline = TwinFlowPipeline.from_pretrained(self.lora, dtype=self.dtype, merge=way == MERGED)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def load_all(self) -> None:
        """Load every pipeline on the device. Each gets a row with seconds and memory."""
        for way in (STOCK, SEPARATE, MERGED):
            row = {"part": "loading", "way": way}
            host, on_device = private_gib(), allocated_gib(self.device)

            def load(way: str = way) -> None:
                self.pipelines[way] = self.load(way)

            row["seconds"] = timed(load, self.device)
            row["seconds_to_device"] = timed(partial(self.pipelines[way].to, self.device), self.device)
            row["host_gib"] = private_gib() - host
            row["device_gib"] = on_device is not None and allocated_gib(self.device) - on_device or None
            self.report.add(row)

    def call(self, way: str, pipeline: DiffusionPipeline | None = None) -> Callable[[], torch.Tensor]:
        """Return a call that generates latents, from the same noise every time."""
        generator = torch.Generator(self.device).manual_seed(0)
        side = self.resolution // 8
        noise = torch.randn(1, self.model.latent_channels, side, side, generator=generator, device=self.device)
        torch.manual_seed(0)
        arguments = {
            "height": self.resolution,
            "width": self.resolution,
            "output_type": "latent",
            "num_inference_steps": STEPS,
            "guidance_scale": 0.0,
            **self.model.condition(1, self.device, self.dtype),
        }
        if way == STOCK:
            scheduler = TwinFlowScheduler()
            scheduler.set_timesteps(STEPS)
            arguments["sigmas"] = scheduler.sigmas[:-1].tolist()
        pipeline = pipeline or self.pipelines[way]

        def draw() -> torch.Tensor:
            torch.manual_seed(0)
            return pipeline(latents=noise.to(self.dtype), **arguments).images

        return draw

    def measure(self, ways: list[str], *, compiled: bool) -> None:
        """Return a row per pipeline, from calls in turns, with the time relative to the stock pipeline."""
        works = {way: self.call(way) for way in ways}
        with self.compiled(ways) if compiled else nullcontext():
            rows = measure_in_turns(works, works, self.device, self.runs)
        for way, row in rows.items():
            described = {"part": "latency", "way": way, "steps": STEPS, "compiled": compiled}
            self.report.add({**described, **row, "times_stock": row["seconds"] / rows[STOCK]["seconds"]})

    @contextmanager
    def compiled(self, ways: list[str]) -> Iterator[None]:
        transformers = [self.pipelines[way].transformer for way in ways]
        try:
            for transformer in transformers:
                compile_blocks(transformer, self.backend)
            yield
        finally:
            uncompile(transformers)

    def compare_images(self) -> None:
        """Return the difference of merged and separate latents, and how large the latents are."""
        merged, separate = (self.call(way)().float() for way in (MERGED, SEPARATE))
        difference = (merged - separate).square().mean().sqrt()
        self.report.add(
            {
                "part": "images",
                "root_mean_square_difference": float(difference),
                "root_mean_square": float(separate.square().mean().sqrt()),
            }
        )

    def unload(self, pipeline: DiffusionPipeline, how: str) -> None:
        seconds = timed(partial(unload_twinflow_lora, pipeline), self.device)
        pipeline.remove_all_hooks()
        expected = self.pipelines[STOCK].transformer.state_dict()
        found = pipeline.transformer.state_dict()
        same = expected.keys() == found.keys() and all(
            torch.equal(found[name].to(tensor.device), tensor) for name, tensor in expected.items()
        )
        self.report.add({"part": "unloading", "how": how, "seconds": seconds, "exact": same})

    def check_offloading(self) -> None:
        """Call and unload a merged pipeline under each kind of offloading."""
        expected = self.call(MERGED)()
        kinds = {
            "model": lambda pipeline: pipeline.enable_model_cpu_offload(),
            "sequential": lambda pipeline: pipeline.enable_sequential_cpu_offload(),
            "group": lambda pipeline: pipeline.enable_group_offload(
                onload_device=self.device, offload_device=torch.device("cpu"), offload_type="leaf_level"
            ),
            "group with a stream": lambda pipeline: pipeline.enable_group_offload(
                onload_device=self.device,
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=True,
            ),
        }
        for kind, enable in kinds.items():
            with self.report.noted(kind):
                pipeline = self.load(MERGED)
                enable(pipeline)
                same = torch.equal(self.call(MERGED, pipeline)(), expected)
                self.report.add({"part": "offloading", "kind": kind, "same_image": same})
                self.unload(pipeline, f"under {kind} offloading")


def save_random_lora(pipeline: DiffusionPipeline, model: RealModel, base: str, directory: Path, rank: int) -> None:
    """Save a LoRA with random weights and a random time conditioning; the pipeline's transformer keeps both."""
    transformer = pipeline.transformer
    enable_twinflow(transformer)
    targets = model.family_object.lora_targets(transformer)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if ".lora_" in name:
                parameter.mul_(0.1)
        transformer.time_conditioning.target_timestep_embedder.linear_2.weight.normal_(std=0.01)
    directory.mkdir()
    config = TwinFlowRepositoryConfig(LORA, model.family, base, num_inference_steps=STEPS)
    save_twinflow_lora(directory, transformer, config, TwinFlowScheduler())


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser, list(PARTS), "merged_lora")
    parser.add_argument(
        "--runs", type=int, default=2 if parser.get_default("tiny") else 20, help="Number of timed calls."
    )
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> int:
    announce(args)
    report = Report(args, args.output, args.minutes)
    model = SD35_MEDIUM.tiny() if args.tiny else SD35_MEDIUM
    with tempfile.TemporaryDirectory() as folder:
        case = Case(args, report, model, Path(folder))
        case.load_all()
        case.compare_images()
        works = {
            "eager": partial(case.measure, [STOCK, MERGED, SEPARATE], compiled=False),
            "compiled": partial(case.measure, [STOCK, MERGED], compiled=True),
            "offloading": case.check_offloading,
            "unloading": lambda: case.unload(case.pipelines[MERGED], "on the device"),
        }
        for part in args.parts:
            if not report.is_over(part):
                with report.guarded(part):
                    works[part]()
    announce(args)
    return report.exit_code()


if __name__ == "__main__":
    raise SystemExit(main(parse_args()))
