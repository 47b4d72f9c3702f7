#!/usr/bin/env python
"""Speed and memory of a TwinFlow training step, side by side with a plain implementation, in one run.

Compares, on one SD3 transformer with random weights and random latents:
- plain: section by section as the paper writes it, every pass on every sample, eager;
- engine: `TwinFlowObjective`, only the samples that need a pass, eager and with the blocks compiled;
- flow matching: one forward and backward of the same adapter, the least that training can cost.

    python benchmarks/training_engine.py --output benchmarks/results/training_engine.json
"""

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import torch
from peft import LoraConfig

from diffusers_twinflow import TwinFlowConfig, TwinFlowSD3Transformer2DModel
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.training.branches import BranchRotation
from diffusers_twinflow.training.compilation import compile_blocks
from diffusers_twinflow.training.draw import draw_training_step
from diffusers_twinflow.training.flow import barron_loss, interpolate, interval_weight, rcgm_target, velocity
from diffusers_twinflow.training.objective import TwinFlowObjective
from diffusers_twinflow.training.teacher import add_teacher_adapter, build_teacher

FAMILY = FAMILIES["stable_diffusion_3"]


class Setting:
    """A transformer, its optimizer, data and teacher for one way of training."""

    def __init__(self, args, train_type: str, config: TwinFlowConfig, compiled: bool = False):
        torch.manual_seed(0)
        self.config, self.device = config, torch.device(args.device)
        transformer = TwinFlowSD3Transformer2DModel(
            sample_size=args.latent_size,
            num_layers=args.num_layers,
            num_attention_heads=args.num_attention_heads,
            caption_projection_dim=64 * args.num_attention_heads,
            joint_attention_dim=1024,
            pooled_projection_dim=1024,
            pos_embed_max_size=args.latent_size,
            qk_norm="rms_norm",
        )
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
                add_teacher_adapter(transformer, lora_config)
        else:
            transformer.requires_grad_(True)
        self.transformer = transformer.train()
        if compiled:
            compile_blocks(transformer)
        trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-4, fused=self.device.type == "cuda")
        self.velocity = FAMILY.velocity(transformer)
        self.teacher = build_teacher(transformer, FAMILY.velocity, config, True) if config.twinflow_enabled else None
        self.rotation = BranchRotation(config.branch_shares)
        self.objective = TwinFlowObjective(config, self.rotation)
        shape = (args.batch_size, 16, args.latent_size, args.latent_size)
        self.latents = torch.randn(shape, device=self.device)
        self.condition = self.random_condition(args.batch_size, args.text_tokens)
        self.unconditional = self.random_condition(1, args.text_tokens)
        self.position = 0

    def random_condition(self, batch: int, tokens: int) -> dict[str, torch.Tensor]:
        return {
            "prompt_embeds": torch.randn(batch, tokens, 1024, device=self.device, dtype=torch.bfloat16),
            "pooled_prompt_embeds": torch.randn(batch, 1024, device=self.device, dtype=torch.bfloat16),
        }

    def draw(self):
        positions = list(range(self.position, self.position + len(self.latents)))
        self.position += len(self.latents)
        shape = self.latents.shape[1:]
        return draw_training_step(self.config, self.rotation, positions, shape, seed=0, device=self.device)

    def step(self, loss_function) -> None:
        if self.teacher is not None:
            self.teacher.update()
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = loss_function(self)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def engine_loss(setting: Setting) -> torch.Tensor:
    return setting.objective(
        setting.latents,
        setting.condition,
        setting.draw(),
        student=setting.velocity,
        teacher=setting.teacher,
        unconditional=setting.unconditional,
    ).loss


def flow_matching_loss(setting: Setting) -> torch.Tensor:
    draw = setting.draw()
    x_t = interpolate(setting.latents, draw.noise, draw.t)
    prediction = setting.velocity(x_t, draw.t, None, None, setting.condition).float()
    return (prediction - velocity(setting.latents, draw.noise)).square().mean()


def plain_loss(setting: Setting) -> torch.Tensor:
    """Every pass on the whole batch, chosen among afterwards."""
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
    rectify = barron_loss(prediction, prediction.detach() - difference)[draw.one_step].mean()
    return (barron_loss(prediction, target) * weight).mean() + config.twinflow_rectify_weight * rectify


def measure(args, name: str, train_type: str, loss_function, config: TwinFlowConfig, compiled=False) -> dict:
    """Median seconds of a step and peak memory of one way of training, which is then taken off the device."""
    torch.compiler.reset()
    setting = Setting(args, train_type, config, compiled)
    cuda = setting.device.type == "cuda"
    synchronize = torch.cuda.synchronize if cuda else (lambda: None)
    for _ in range(args.warmup):
        setting.step(loss_function)
    synchronize()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(args.runs):
        start = time.perf_counter()
        setting.step(loss_function)
        synchronize()
        seconds.append(time.perf_counter() - start)
    row = {"name": name, "train_type": train_type, "seconds": statistics.median(seconds), "runs": args.runs}
    row["batch_size"], row["parameters"] = args.batch_size, setting.parameter_count
    row["order"] = config.twinflow_estimate_order
    row["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    del setting
    if cuda:
        torch.cuda.empty_cache()
    print(json.dumps(row), flush=True)
    return row


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    small = not torch.cuda.is_available()
    parser.add_argument("--num_layers", type=int, default=2 if small else 12)
    parser.add_argument("--num_attention_heads", type=int, default=2 if small else 12)
    parser.add_argument("--latent_size", type=int, default=8 if small else 32)
    parser.add_argument("--text_tokens", type=int, default=8 if small else 154)
    parser.add_argument("--batch_size", type=int, default=8 if small else 64)
    parser.add_argument("--warmup", type=int, default=2 if small else 8)
    parser.add_argument("--runs", type=int, default=3 if small else 20)
    parser.add_argument("--train_types", nargs="*", default=["lora", "full"])
    parser.add_argument("--only", nargs="+", help="Names of the eager rows to measure, without the table.")
    parser.add_argument("--compiled", nargs="*", default=[] if small else ["lora"], help="What to measure compiled.")
    parser.add_argument("--orders", type=int, nargs="*", default=[1, 2, 3], help="Orders of the table.")
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[4, 8] if small else [4, 16, 64, 256])
    parser.add_argument("--table_latent_size", type=int, default=8 if small else 32)
    parser.add_argument("--table_runs", type=int, default=2 if small else 6)
    parser.add_argument("--output", help="JSON file of the results.")
    parser.add_argument("--plot", help="PNG file of the table's plot.")
    return parser.parse_args(input_args)


def measure_table(args) -> list[dict]:
    """The engine's LoRA step against the order of the estimate and the size of the batch; `None` is out of memory."""
    rows, changes = [], {"latent_size": args.table_latent_size, "warmup": 3, "runs": args.table_runs}
    for order in args.orders:
        config = TwinFlowConfig(
            twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_estimate_order=order
        )
        for batch_size in args.batch_sizes:
            point = argparse.Namespace(**{**vars(args), **changes, "batch_size": batch_size})
            try:
                rows.append(measure(point, "engine", "lora", engine_loss, config))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                rows.append({"name": "engine", "train_type": "lora", "order": order, "batch_size": batch_size})
                rows[-1] |= {"seconds": None, "peak_gigabytes": None}
    return rows


def plot_table(rows: list[dict], path: Path) -> None:
    """Samples a second and peak memory against the batch size, a line an order."""
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


def main(args: argparse.Namespace) -> None:
    off = TwinFlowConfig()
    on = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True)
    ways = [("flow matching", flow_matching_loss, off), ("plain", plain_loss, on), ("engine", engine_loss, on)]
    result = {"rows": [], "table": [], **environment(args)}
    for train_type in args.train_types:
        for name, loss_function, config in ways:
            if not args.only or name in args.only:
                result["rows"].append(measure(args, name, train_type, loss_function, config))
                save(args, result)
    if not args.only:
        result["table"] = measure_table(args)
        save(args, result)
    for train_type in args.compiled:
        result["rows"].append(measure(args, "engine, compiled", train_type, engine_loss, on, compiled=True))
        save(args, result)
    for train_type in args.train_types:
        found = {row["name"]: row for row in result["rows"] if row["train_type"] == train_type}
        for name, row in found.items():
            if "plain" in found:
                speed = found["plain"]["seconds"] / row["seconds"]
                print(f"{train_type:5} {name:18} {speed:.2f} times as fast as plain")


def environment(args) -> dict:
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return {"device": device, **versions, "arguments": vars(args), "date": datetime.date.today().isoformat()}


def save(args, result: dict) -> None:
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    if args.plot and result["table"]:
        plot_table(result["table"], Path(args.plot))


if __name__ == "__main__":
    main(parse_args())
