#!/usr/bin/env python
"""Find when TwinFlow training diverges: the digits base at high learning rates, with different rectification weights.

A run stops if its loss is far above the losses of runs that work. About five minutes on one core:

    python benchmarks/stability.py --output benchmarks/results/stability_digits.json
"""

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "examples" / "digits"))

from prepare_data import DEFAULT_DATA_DIR, digit_prompt, ensure_data, load_split  # noqa: E402
from report import environment  # noqa: E402

from diffusers_twinflow.cli.train import parse_args  # noqa: E402
from diffusers_twinflow.data.batches import LatentBatches  # noqa: E402
from diffusers_twinflow.families import FAMILIES  # noqa: E402
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline  # noqa: E402
from diffusers_twinflow.training.callbacks import TrainerCallback  # noqa: E402
from diffusers_twinflow.training.recipe import RunOptions  # noqa: E402
from diffusers_twinflow.training.trainer import Trainer  # noqa: E402

CONFIG = str(REPOSITORY / "examples" / "digits" / "distill_lora.json")
FULL = ["--train_type=full", "--learning_rate=1e-3"]
LAYERS = FAMILIES["stable_diffusion_3"].lora_target_modules
LORA = ["--train_type=lora", "--learning_rate=4e-3", "--rank=64", "--lora_layers", *LAYERS]
WEIGHT = "--twinflow_rectify_weight="
RUNS = {
    "full, weight 4": [*FULL, f"{WEIGHT}4"],
    "full, weight 2": [*FULL, f"{WEIGHT}2"],
    "full, weight 1": [*FULL, f"{WEIGHT}1"],
    "full, weight 4, max_grad_norm 0.1": [*FULL, f"{WEIGHT}4", "--max_grad_norm=0.1"],
    "full at 1e-4, weight 4": ["--train_type=full", "--learning_rate=1e-4", f"{WEIGHT}4"],
    "LoRA, weight 4": [*LORA, f"{WEIGHT}4"],
    "LoRA, weight 1": [*LORA, f"{WEIGHT}1"],
}
RUNAWAY_LOSS = 15.0
WARM_UP_STEPS, WINDOW = 10, 10


class WarmedUp(Trainer):
    """A trainer whose learning rate rises over the first steps and starts above 0."""

    def build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARM_UP_STEPS))


class Losses(TrainerCallback):
    """The loss of each micro-batch."""

    def __init__(self):
        self.values: list[float] = []

    def on_loss(self, trainer, output, batch_size):
        self.values.append(output.loss.item())


class RandomDigits:
    """Endless random batches of digits, with replacement.

    Args:
        conditions: conditions of the ten prompts, by name.
    """

    def __init__(
        self, latents: torch.Tensor, labels: torch.Tensor, conditions: dict[str, torch.Tensor], size: int, seed: int
    ):
        self.latents, self.labels, self.conditions, self.size, self.seed = latents, labels, conditions, size, seed

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            chosen = torch.randint(len(self.latents), (self.size,), generator=generator)
            condition = {name: tensor[self.labels[chosen]] for name, tensor in self.conditions.items()}
            yield {"latents": self.latents[chosen], "condition": condition}


def encode_digits(family, pipeline, data_dir: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Return latents, labels, and the conditions of the ten prompts and of the empty prompt."""
    images, labels = load_split(data_dir, "train")
    with torch.no_grad():
        latents = torch.cat([family.encode_images(pipeline, 2 * batch - 1) for batch in images.split(500)])
        prompts = family.encode_prompts(pipeline, [*map(digit_prompt, range(10)), ""], max_sequence_length=1)
    return latents, labels, prompts


class DigitsInMemory:
    """The base of a run and random batches of encoded digits, with the run's seed.

    Args:
        given: options of the run.
        data_dir: folder of the digits.
    """

    def __init__(self, given: RunOptions, data_dir: str):
        arguments, family = given.arguments, FAMILIES["stable_diffusion_3"]
        self.pipeline = load_stock_pipeline(family, arguments.pretrained_model_name_or_path)
        torch.manual_seed(arguments.seed)
        self.latents, labels, self.prompts = encode_digits(family.bind(self.pipeline), self.pipeline, data_dir)
        self.batches = LatentBatches(
            RandomDigits(self.latents, labels, self.prompts, arguments.train_batch_size, arguments.seed),
            seed=arguments.seed,
            batch_size=arguments.train_batch_size,
            empty_condition={key: tensor[10:] for key, tensor in self.prompts.items()},
        )


def train(name: str, seed: int, args) -> dict:
    """Train once. Returns the largest mean loss over ten steps, and the largest size of the one-step latents."""
    options = ["--config", CONFIG, "--twinflow_enhanced_ratio=0.5", "--twinflow_adversarial_enabled"]
    options += [f"--seed={seed}", *RUNS[name]]
    given = parse_args([*options, f"--train_batch_size={args.batch_size}", f"--max_train_steps={args.steps}"])
    digits = DigitsInMemory(given, args.data_dir)
    losses, sizes, start = Losses(), [], time.perf_counter()
    trainer = WarmedUp(digits.pipeline, given.arguments, given.method(), digits.batches, callbacks=[losses])
    trainer.prepare()
    for batch in tqdm(trainer.loader, desc=f"{name}, seed {seed}", total=args.steps, leave=False):
        trainer.begin_step()
        trainer.train_micro_batch(batch)
        if len(losses.values) % WINDOW == 0:
            sizes.append(size_of_one_step(trainer.networks.student, digits.latents.shape[1:], digits.prompts))
            if statistics.mean(losses.values[-WINDOW:]) > RUNAWAY_LOSS:
                break
    steps = len(losses.values)
    windows = [statistics.mean(losses.values[i : i + WINDOW]) for i in range(0, steps, WINDOW)]
    row = {"run": name, "seed": seed, "steps": steps, "largest_loss": max(windows), "largest_rms": max(sizes)}
    row |= {"losses": windows, "one_step_rms": sizes, "options": RUNS[name]}
    return row | {"seconds_per_step": (time.perf_counter() - start) / steps}


@torch.no_grad()
def size_of_one_step(student, shape: torch.Size, prompts: dict[str, torch.Tensor]) -> float:
    """Return the root mean square of the one-step latents of ten prompts; for data it is 1."""
    noise = torch.randn(10, *shape, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(10)
    condition = {name: tensor[:10] for name, tensor in prompts.items()}
    return (noise - student(noise, ones, 0 * ones, ones, condition)).square().mean().sqrt().item()


def parse_benchmark_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument(
        "--data_dir", default=DEFAULT_DATA_DIR, help="Folder of the digits, which is made if it does not exist."
    )
    parser.add_argument("--output", help="JSON file for the results.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    ensure_data(args.data_dir)
    result = {"rows": [], "arguments": vars(args), "date": datetime.date.today().isoformat(), **environment()}
    for seed in args.seeds:
        for name in args.runs:
            row = train(name, seed, args)
            result["rows"].append(row)
            print(f"{name}, seed {seed}: {row['steps']} steps, largest loss {row['largest_loss']:.1f}", flush=True)
            if args.output:
                Path(args.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(parse_benchmark_args())
