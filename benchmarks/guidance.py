#!/usr/bin/env python
"""Measure the guidance of a distilled model in a case where it is known: points in a plane, four prompts with three modes each.

A small network learns the points by flow matching. RCGM with `twinflow_enhanced_ratio` distills it, with and without empty
prompts in the data. Guidance moves the points of a prompt outwards ("radius", 1 in the data) and reduces their spread over the
modes ("diversity"). Many small steps of the distilled model should have the same effect as the base with guidance
`1 / (1 - ratio)`.

    python benchmarks/guidance.py --output benchmarks/results/guidance.json
"""

import argparse
import copy
import math
import statistics

import torch
from torch import nn
from tqdm.auto import tqdm

from at_real_size.measuring import Report
from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.flow import interpolate
from diffusers_twinflow.methods import Networks, TwinFlow

PROMPTS, MODES, EMPTY = 4, 3, 4
GUIDED = ((0.0, 0.1), (0.5, 0.1), (0.6667, 0.1), (0.5, 0.0))
"""Enhanced ratios, each with the share of prompts that are replaced by the empty prompt."""
BATCH, DROPOUT, POINTS, MANY_STEPS = 256, 0.1, 1000, 50


class PlaneNetwork(nn.Module):
    """Predicts the velocity of points `[B, 2]`. The target time has no effect before it is trained."""

    def __init__(self, width: int, layers: int = 3):
        super().__init__()
        self.prompt, self.sign = nn.Embedding(PROMPTS + 1, width), nn.Embedding(2, width)
        self.first, self.last = nn.Linear(2 + 32, width), nn.Linear(width, 2)
        self.target = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(layers)
        )
        for parameter in (self.sign.weight, *self.target[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x, t, r, sign, condition):
        hidden = (
            self.first(torch.cat([x, waves(t)], 1)) + self.prompt(condition["prompt"]) + self.sign((sign < 0).long())
        )
        hidden = hidden + (t - r)[:, None] * self.target(waves(r))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


def waves(t: torch.Tensor) -> torch.Tensor:
    angles = t[:, None] * torch.exp(torch.linspace(0, math.log(200), 16))
    return torch.cat([angles.sin(), angles.cos()], 1)


def axes(prompt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the direction outwards and the direction along the modes."""
    angle = prompt * math.pi / 2
    outwards = torch.stack([angle.cos(), angle.sin()], 1)
    return outwards, torch.stack([-outwards[:, 1], outwards[:, 0]], 1)


def draw_points(generator: torch.Generator, dropout: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    prompt = torch.randint(0, PROMPTS, (BATCH,), generator=generator)
    mode = torch.randint(0, MODES, (BATCH,), generator=generator) - 1
    outwards, along = axes(prompt)
    points = outwards + 0.6 * mode[:, None] * along + 0.15 * torch.randn(BATCH, 2, generator=generator)
    is_empty = torch.rand(BATCH, generator=generator) < dropout
    return points, {"prompt": prompt.masked_fill(is_empty, EMPTY)}


def optimize(network: nn.Module, loss_of_step, steps: int, rate: float, name: str) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in tqdm(range(steps), desc=name):
        optimizer.zero_grad()
        loss_of_step(step).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def train_base(args: argparse.Namespace) -> PlaneNetwork:
    torch.manual_seed(args.seed)
    network, generator = PlaneNetwork(args.width), torch.Generator().manual_seed(args.seed)

    def loss(step: int) -> torch.Tensor:
        x, condition = draw_points(generator, DROPOUT)
        z, t = torch.randn(BATCH, 2, generator=generator), torch.rand(BATCH, generator=generator)
        return (network(interpolate(x, z, t), t, t, torch.ones(BATCH), condition) - (z - x)).square().mean()

    optimize(network, loss, args.base_steps, 1e-3, "base")
    return network


def distil(base: PlaneNetwork, ratio: float, dropout: float, args: argparse.Namespace) -> PlaneNetwork:
    """Distill the base. Returns the teacher at the end."""
    method = TwinFlow(TwinFlowConfig(twinflow_enabled=True, twinflow_enhanced_ratio=ratio))
    generator, student = torch.Generator().manual_seed(args.seed), copy.deepcopy(base)
    teacher = method.build_teacher(student, lambda network: network)
    networks = Networks(student, student, teacher, unconditional={"prompt": torch.tensor([EMPTY])})

    def loss(step: int) -> torch.Tensor:
        teacher.update()
        x, condition = draw_points(generator, dropout)
        draw = method.draw(range(step * BATCH, (step + 1) * BATCH), (2,), seed=args.seed)
        return method.loss(x, condition, draw, networks).loss

    optimize(student, loss, args.steps, 5e-4, f"ratio {ratio}, empty prompts {dropout}")
    return teacher.transformer


@torch.no_grad()
def draw_samples(
    network: PlaneNetwork, prompt: torch.Tensor, steps: int, guidance: float, jumps: bool
) -> torch.Tensor:
    """Sample with Euler steps: jumps to the target time if the network has one, else steps along its velocity."""
    generator = torch.Generator().manual_seed(1)
    x, sign = torch.randn(len(prompt), 2, generator=generator), torch.ones(len(prompt))
    for start, end in torch.linspace(1, 0, steps + 1).unfold(0, 2, 1).tolist():
        t = torch.full_like(sign, start)
        r = torch.full_like(sign, end) if jumps else t
        velocity = network(x, t, r, sign, {"prompt": prompt})
        if guidance != 1:
            empty = network(x, t, r, sign, {"prompt": torch.full_like(prompt, EMPTY)})
            velocity = empty + guidance * (velocity - empty)
        x = x - (start - end) * velocity
    return x


def describe(network: PlaneNetwork, steps: int, guidance: float = 1.0, jumps: bool = False) -> dict[str, float]:
    """Return the means over the prompts."""
    rows = []
    for number in range(PROMPTS):
        prompt = torch.full((POINTS,), number)
        x, (outwards, along) = draw_samples(network, prompt, steps, guidance, jumps), axes(prompt)
        rows.append(((x * outwards).sum(1).mean().item(), (x * along).sum(1).std().item()))
    radius, diversity = map(statistics.mean, zip(*rows))
    return {"evaluations": steps * (1 if guidance == 1 else 2), "radius": radius, "diversity": diversity}


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    report, base = Report(args, args.output, args.minutes), train_base(args)
    for guidance in sorted({1 / (1 - ratio) for ratio, _ in GUIDED}):
        guidance = round(guidance, 2)
        report.add({"way": "base", "guidance": guidance, **describe(base, MANY_STEPS, guidance)})
    for ratio, dropout in GUIDED:
        network = distil(base, ratio, dropout, args)
        way = {"way": "distilled", "ratio": ratio, "empty_prompts": dropout, "guidance": round(1 / (1 - ratio), 2)}
        report.add(way | describe(network, MANY_STEPS))
        for steps in (1, 2):
            report.add(way | describe(network, steps, jumps=True))
    return report.exit_code()


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=96, help="Width of the network.")
    parser.add_argument("--base_steps", type=int, default=4000, help="Number of flow-matching steps.")
    parser.add_argument("--steps", type=int, default=3000, help="Number of steps of each distillation.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the results.")
    parser.set_defaults(device="cpu", tiny=False, minutes=60.0)
    return parser.parse_args(input_args)


if __name__ == "__main__":
    raise SystemExit(main(parse_args()))
