#!/usr/bin/env python
"""Speed and memory of a TwinFlow training step, compared with a plain implementation.

Measured on one SD3 transformer with random weights and random latents:
- plain: step by step as in the paper, every pass on every sample, eager;
- engine: `TwinFlow`, which runs passes only on the samples that need them: eager, with split passes, and with compiled blocks;
- flow matching: one forward and one backward pass of the same weights, the lowest possible cost of training.

A LoRA trains on merged weights, as in the `Trainer`. The rows "unmerged" run PEFT's low-rank branches instead.

    python benchmarks/training_engine.py --output_dir benchmarks/results

This writes `training_engine_full.json` and `training_engine_lora.json`, row by row.
"""

import argparse
import datetime
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import torch
from peft import LoraConfig
from torch._dynamo.utils import counters

from diffusers_twinflow import TwinFlowConfig, TwinFlowSD3Transformer2DModel
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.flow import barron_loss, interpolate, interval_weight, rcgm_target, velocity
from diffusers_twinflow.methods import FlowMatching, Networks, TwinFlow
from diffusers_twinflow.methods.merged_passes import MergedPasses
from diffusers_twinflow.models.merged_lora import MergedLora
from diffusers_twinflow.training.compilation import compile_blocks

FAMILY = FAMILIES["stable_diffusion_3"]


def random_transformer(args) -> TwinFlowSD3Transformer2DModel:
    return TwinFlowSD3Transformer2DModel(
        sample_size=args.latent_size,
        num_layers=args.num_layers,
        num_attention_heads=args.num_attention_heads,
        caption_projection_dim=64 * args.num_attention_heads,
        joint_attention_dim=1024,
        pooled_projection_dim=1024,
        pos_embed_max_size=args.latent_size,
        qk_norm="rms_norm",
    )


class Setting:
    """A transformer, its optimizer, data and teacher for one way of training."""

    def __init__(self, args, train_type: str, config: TwinFlowConfig, compiled: bool = False, merged: bool = False):
        torch.manual_seed(0)
        self.config, self.device = config, torch.device(args.device)
        self.method = TwinFlow(config) if config.twinflow_enabled else FlowMatching(config=config)
        with self.device:
            transformer = random_transformer(args)
        dtype = torch.bfloat16 if train_type == "lora" else torch.float32
        transformer.to(self.device, dtype)
        self.parameter_count = sum(parameter.numel() for parameter in transformer.parameters())
        if config.twinflow_enabled:
            transformer.enable_twinflow()
        if train_type == "lora":
            lora_config = LoraConfig(r=64, lora_alpha=64, target_modules=FAMILY.lora_target_modules)
            transformer.add_adapter(lora_config)
            if config.twinflow_enabled:
                transformer.time_conditioning.float().requires_grad_(True)
            self.method.add_teacher(transformer, lora_config)
        else:
            transformer.requires_grad_(True)
        self.transformer = transformer.train()
        self.merged = MergedLora(transformer) if merged and train_type == "lora" else None
        if compiled:
            compile_blocks(transformer)
        trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-4, fused=self.device.type == "cuda")
        self.velocity = FAMILY.velocity(transformer)
        self.teacher = self.method.build_teacher(transformer, FAMILY.velocity)
        self.networks = Networks(self.velocity, self.velocity, self.teacher)
        if self.merged is not None:
            self.networks = MergedPasses(transformer, self.merged, self.networks).networks
        shape = (args.batch_size, 16, args.latent_size, args.latent_size)
        self.latents = torch.randn(shape, device=self.device)
        self.condition = self.random_condition(args.batch_size, args.text_tokens)
        self.unconditional = self.random_condition(1, args.text_tokens)
        self.step_count, self.cycle = 0, args.runs

    def random_condition(self, batch: int, tokens: int) -> dict[str, torch.Tensor]:
        return {
            "prompt_embeds": torch.randn(batch, tokens, 1024, device=self.device, dtype=torch.bfloat16),
            "pooled_prompt_embeds": torch.randn(batch, 1024, device=self.device, dtype=torch.bfloat16),
        }

    def draw(self):
        """Return the draw of the next step. Draws repeat after as many steps as are timed."""
        first = self.step_count % self.cycle * len(self.latents)
        positions = list(range(first, first + len(self.latents)))
        self.step_count += 1
        return self.method.draw(positions, self.latents.shape[1:], seed=0, device=self.device)

    def step(self, loss_function) -> None:
        if self.teacher is not None:
            self.teacher.update()
        with nullcontext() if self.merged is None else self.merged.used():
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = loss_function(self)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def engine_loss(setting: Setting) -> torch.Tensor:
    networks = replace(setting.networks, unconditional=setting.unconditional)
    return setting.method.loss(setting.latents, setting.condition, setting.draw(), networks).loss


def plain_loss(setting: Setting) -> torch.Tensor:
    """Run every pass on the whole batch, and choose results afterwards."""
    config, draw, condition = setting.config, setting.draw(), setting.condition
    ones = torch.ones_like(draw.t)
    empty = {name: tensor.expand_as(condition[name]) for name, tensor in setting.unconditional.items()}

    def choose(mask, a, b):
        return torch.where(mask[:, None, None, None], a, b)

    is_adversarial = draw.sign < 0
    with torch.no_grad():
        noise = torch.randn_like(setting.latents)
        fakes = noise - setting.velocity(noise, ones, ones * 0, ones, condition).float()
    x = choose(is_adversarial, fakes, setting.latents)
    x_t, v = interpolate(x, draw.noise, draw.t), velocity(x, draw.noise)
    prediction = setting.velocity(x_t, draw.t, draw.r, draw.sign, condition).float()
    with torch.no_grad():
        with setting.teacher.activated() as teacher:
            guided = teacher(x_t, draw.t, draw.t, ones, condition).float()
            guided = guided - teacher(x_t, draw.t, draw.t, ones, empty).float()
            enhanced = choose(~is_adversarial & (draw.t < 1), v + config.twinflow_enhanced_ratio * guided, v)
            target = rcgm_target(
                lambda x, tau, tau_next: teacher(x, tau, tau_next, ones, condition).float(),
                prediction,
                enhanced,
                x_t,
                draw.t,
                draw.r,
                order=config.twinflow_estimate_order,
                delta=config.twinflow_delta_t,
                clamp=config.twinflow_target_clamp,
            )
        target = choose(is_adversarial, v, target)
        t = torch.rand_like(draw.t)
        rectified = interpolate(x_t - prediction, torch.randn_like(x_t), t)
        difference = setting.velocity(rectified, t, t, -ones, condition).float()
        difference = (difference - setting.velocity(rectified, t, t, ones, condition).float()).clamp(-1, 1)
    weight = torch.where(is_adversarial, ones, interval_weight(draw.t, draw.r))
    rectify = barron_loss(prediction, prediction.detach() - difference)[draw.rectified].sum() / len(x)
    return (barron_loss(prediction, target) * weight).mean() + config.twinflow_rectify_weight * rectify


@dataclass(frozen=True)
class Way:
    """A way of training that gets a row."""

    name: str
    loss_function: Callable
    twinflow: bool = True
    compiled: bool = False
    split_passes: bool = False
    merged: bool = True

    def config(self, **options) -> TwinFlowConfig:
        if not self.twinflow:
            return TwinFlowConfig()
        options |= {"twinflow_adversarial_enabled": True, "twinflow_split_passes": self.split_passes}
        return TwinFlowConfig(twinflow_enabled=True, **options)


ENGINE = Way("engine", engine_loss)
UNMERGED = ("flow matching, unmerged", "engine, unmerged", "engine, unmerged, compiled")
WAYS = [
    Way("flow matching", engine_loss, twinflow=False),
    Way("plain", plain_loss, merged=False),
    ENGINE,
    Way(UNMERGED[0], engine_loss, twinflow=False, merged=False),
    Way(UNMERGED[1], engine_loss, merged=False),
    Way("engine, split passes", engine_loss, split_passes=True),
    Way("engine, compiled", engine_loss, compiled=True),
    Way(UNMERGED[2], engine_loss, compiled=True, merged=False),
    Way("flow matching, compiled", engine_loss, twinflow=False, compiled=True),
]


def measure(args, way: Way, train_type: str, **options) -> dict:
    """Return the median seconds per step and the peak memory of one way of training. Its memory is freed afterwards."""
    torch.compiler.reset()
    counters.clear()
    config = way.config(**options)
    setting = Setting(args, train_type, config, way.compiled, way.merged)
    cuda = setting.device.type == "cuda"

    def timed_step() -> float:
        start = time.perf_counter()
        setting.step(way.loss_function)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    # Compiled steps warm up with every timed batch, so that nothing is compiled in a timed step.
    warmup = [timed_step() for _ in range(args.runs if way.compiled else args.warmup)]
    if not way.compiled:
        setting.step_count = 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    graphs = counters["stats"]["unique_graphs"]
    seconds = [timed_step() for _ in range(args.runs)]
    row = {"name": way.name, "train_type": train_type, "seconds": statistics.median(seconds), "runs": args.runs}
    row |= {"fastest": min(seconds), "slowest": max(seconds)}
    row |= {"batch_size": args.batch_size, "parameters": setting.parameter_count}
    row["order"] = config.twinflow_estimate_order
    row["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    if way.compiled:
        row["compile_seconds"] = sum(warmup) - len(warmup) * row["seconds"]
        row |= {"graphs": graphs, "graphs_in_timed_steps": counters["stats"]["unique_graphs"] - graphs}
    return row


def try_to_measure(args, way: Way, train_type: str, **options) -> dict:
    """Return a row, or a row with the error."""
    start = time.perf_counter()
    try:
        row = measure(args, way, train_type, **options)
    except Exception as error:
        traceback.print_exc()
        row = {"name": way.name, "train_type": train_type, "batch_size": args.batch_size, **options}
        row |= {"seconds": None, "peak_gigabytes": None, "error": f"{type(error).__name__}: {error}"}
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()
    row["total_seconds"] = time.perf_counter() - start
    print(json.dumps(row), flush=True)
    return row


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    small = not torch.cuda.is_available()
    names = [way.name for way in WAYS]
    parser.add_argument("--num_layers", type=int, default=2 if small else 12)
    parser.add_argument(
        "--num_attention_heads",
        type=int,
        default=2 if small else 12,
        help="Number of attention heads, of 64 channels each.",
    )
    parser.add_argument("--latent_size", type=int, default=8 if small else 64)
    parser.add_argument("--text_tokens", type=int, default=8 if small else 154)
    parser.add_argument("--batch_size", type=int, default=8 if small else 64)
    parser.add_argument(
        "--warmup", type=int, default=2 if small else 3, help="Number of steps before the timed ones, if not compiled."
    )
    parser.add_argument("--runs", type=int, default=3 if small else 8, help="Number of timed steps.")
    parser.add_argument("--train_types", nargs="*", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="Rows to measure.")
    parser.add_argument("--minutes", type=float, default=60, help="Start no row after this many minutes.")
    parser.add_argument("--table", action="store_true", help="Measure orders and batch sizes instead of the rows.")
    parser.add_argument("--orders", type=int, nargs="*", default=[1, 2, 3], help="Orders to measure with --table.")
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[4, 8] if small else [4, 16, 64, 256])
    parser.add_argument("--output_dir", help="Folder for the results.")
    parser.add_argument("--name", default="training_engine", help="Start of the names of the files.")
    return parser.parse_args(input_args)


def measure_table(args) -> list[dict]:
    """Measure the engine's LoRA step for several orders and batch sizes."""
    rows = []
    for order in args.orders:
        for batch_size in args.batch_sizes:
            point = argparse.Namespace(**{**vars(args), "batch_size": batch_size})
            rows.append(try_to_measure(point, ENGINE, "lora", twinflow_estimate_order=order))
            save(args, "orders", {"table": rows})
    return rows


def plot_table(rows: list[dict], path: Path) -> None:
    """Plot samples per second and peak memory over the batch size, one line per order."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    measured = [row for row in rows if row["seconds"]]
    for order in sorted({row["order"] for row in measured}):
        line = [row for row in measured if row["order"] == order]
        sizes = [row["batch_size"] for row in line]
        axes[0].plot(sizes, [row["batch_size"] / row["seconds"] for row in line], "o-", label=f"order {order}")
        axes[1].plot(sizes, [row["peak_gigabytes"] or 0 for row in line], "o-", label=f"order {order}")
    for axis, name in zip(axes, ("samples a second", "peak memory, GiB")):
        axis.set(xlabel="batch size", ylabel=name, xscale="log", ylim=(0, None))
        axis.set_xticks(sizes, sizes)
        axis.legend()
    figure.savefig(path, dpi=120)


def measure_rows(args) -> None:
    """Measure the rows of all ways of training, the eager ones and the compiled engine first."""
    start, rows = time.monotonic(), {train_type: [] for train_type in args.train_types}
    wanted = [way for way in WAYS if way.name in args.only]
    for chosen in (wanted[:-1], wanted[-1:]):
        for train_type in args.train_types:
            for way in chosen:
                if train_type == "full" and way.name in UNMERGED:
                    continue
                if time.monotonic() - start > 60 * args.minutes:
                    print(f"{train_type}: no time left for {way.name}", flush=True)
                    continue
                rows[train_type].append(try_to_measure(args, way, train_type))
                save(args, train_type, {"rows": rows[train_type]})
    for train_type in args.train_types:
        print_comparison(train_type, {row["name"]: row for row in rows[train_type] if row["seconds"]})


def print_comparison(train_type: str, rows: dict[str, dict]) -> None:
    for name, row in rows.items():
        plain, base = rows.get("plain", row), rows.get("flow matching", row)
        text = f"{plain['seconds'] / row['seconds']:.2f} times as fast as plain"
        if row["peak_gigabytes"]:
            copy = row["parameters"] * 4 / 2**30
            more = row["peak_gigabytes"] - base["peak_gigabytes"]
            text += f", {more:+.3f} GiB to flow matching (float32 weights: {copy:.3f})"
        print(f"{train_type:5} {name:24} {text}", flush=True)


def environment(args) -> dict:
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    arguments = {name: value for name, value in vars(args).items() if name != "output_dir"}
    return {"device": device, **versions, "arguments": arguments, "date": datetime.date.today().isoformat()}


def save(args, kind: str, result: dict) -> None:
    if args.output_dir:
        path = Path(args.output_dir, f"{args.name}_{kind}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result | environment(args), indent=2) + "\n")


def main(args: argparse.Namespace) -> None:
    if not args.table:
        return measure_rows(args)
    rows = measure_table(args)
    if args.output_dir:
        plot_table(rows, Path(args.output_dir, f"{args.name}_orders.png"))


if __name__ == "__main__":
    main(parse_args())
