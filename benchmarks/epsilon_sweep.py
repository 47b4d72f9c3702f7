#!/usr/bin/env python
"""Compare options to distill a small epsilon model of the digits: one base and several variants, each for the same time.

This trains the base, scores it at several guidance scales, and at the same time distills it, with one process per variant on
all GPUs. Every variant is saved, loaded with `TwinFlowPipeline`, and scored at 1, 2 and 4 steps from the noise that the base
is scored from.

    python benchmarks/epsilon_sweep.py --output benchmarks/results/epsilon_sweep.json

Each part writes a JSON file when it ends, or its error if it fails. Without a GPU this is a rehearsal on a tiny base, and its
numbers mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch
from accelerate import PartialState

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "examples" / "digits"))

import build_epsilon_base  # noqa: E402
import judge as judges  # noqa: E402
from comparison import save_comparison  # noqa: E402
from demo import PROMPTS, TWINFLOW_STEPS, score_real_digits  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from epsilon_demo import BASE_STEPS  # noqa: E402
from prepare_data import DEFAULT_DATA_DIR, ensure_data, load_split  # noqa: E402
from report import environment, write_report  # noqa: E402
from score import base_column, initial_noise, score_column, twinflow_column  # noqa: E402

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler  # noqa: E402
from diffusers_twinflow.data.batches import LatentBatches  # noqa: E402
from diffusers_twinflow.families.stable_diffusion import UNET_LORA_TARGETS  # noqa: E402
from diffusers_twinflow.training.callbacks import TrainerCallback  # noqa: E402
from diffusers_twinflow.training.recipe import RunOptions, load_recipe  # noqa: E402
from diffusers_twinflow.training.trainer import Trainer  # noqa: E402

WORST_BASE_LOSS = 0.3  # of a trained epsilon model; untrained ones have 1
GUIDANCE_SCALES = (1.0, 1.25, 1.5, 2.0)
ATTENTION = UNET_LORA_TARGETS[:4]
ALL_LAYERS = [*UNET_LORA_TARGETS, "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]


def at(rate: float, **options) -> dict[str, object]:
    return {"learning_rate": rate, "time_conditioning_learning_rate": 2 * rate, **options}


VARIANTS = {
    "lora_5e-4": at(5e-4),
    "lora_2e-4": at(2e-4),
    "lora_5e-5": at(5e-5),
    "lora_attention": at(2e-4, lora_layers=ATTENTION),
    "lora_all_layers": at(2e-4, lora_layers=ALL_LAYERS),
    "lora_no_guidance": at(2e-4, twinflow_enhanced_ratio=0.0),
    "full_1e-4": at(1e-4, train_type="full"),
    "full_3e-5": at(3e-5, train_type="full"),
}


def variant_options(name: str, args) -> RunOptions:
    """Return the options of a variant's run: the recipe, and the changes of the variant."""
    run = {
        "pretrained_model_name_or_path": args.base,
        "output_dir": str(args.output_dir / name),
        "train_batch_size": args.batch_size,
        "max_train_steps": args.max_steps,
    }
    return load_recipe(args.config, run | VARIANTS[name])


class TimedTrainer(Trainer):
    """A trainer whose learning rate follows the clock: it falls to 0 when the time or the steps are over.

    Attributes:
        seconds: how long it trains.
    """

    seconds: float

    def build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        self.start = time.perf_counter()
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: build_epsilon_base.rate_factor(min(1.0, self.progress(step)))
        )

    def progress(self, step: int) -> float:
        """Return the share of the training that is over after `step` steps; 1 or more if it has ended."""
        return max((time.perf_counter() - self.start) / self.seconds, step / self.schedule.total_steps)


class Progress(TrainerCallback):
    """Records and prints the loss and the norm of the gradient every 50 steps."""

    def __init__(self, name: str):
        self.name, self.rows, self.step = name, [], 0

    def on_loss(self, trainer, output, batch_size):
        self.loss = output.loss.detach()

    def takes_step(self, trainer, grad_norm):
        if self.step % 50 == 0:
            row = {"step": self.step, "loss": self.loss.item(), "grad_norm": grad_norm.item()}
            self.rows.append(row)
            print(f"{self.name}: {time.perf_counter() - trainer.start:.0f} s, {row}", flush=True)
        self.step += 1
        return True


class RandomDigits:
    """Endless random batches of digits, with replacement."""

    def __init__(self, latents: torch.Tensor, embeddings: torch.Tensor, size: int, seed: int):
        self.latents, self.embeddings, self.size, self.seed = latents, embeddings, size, seed

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            chosen = torch.randint(len(self.latents), (self.size,), generator=generator).to(self.latents.device)
            condition = {"prompt_embeds": self.embeddings[chosen]}
            yield {"latents": self.latents[chosen], "condition": condition}


def distil(name: str, args) -> dict[str, object]:
    """Distill one variant until its time is over, and save it."""
    PartialState(cpu=args.device == "cpu")
    options = variant_options(name, args)
    pipeline = StableDiffusionPipeline.from_pretrained(args.base).to(args.device)
    images, labels = (tensor.to(args.device) for tensor in load_split(args.data_dir, "train"))
    latents, embeddings = build_epsilon_base.encode(pipeline, images)
    seed, progress = options.arguments.seed, Progress(name)
    data = LatentBatches(
        RandomDigits(latents, embeddings[labels], args.batch_size, seed),
        seed=seed,
        batch_size=args.batch_size,
        empty_condition={"prompt_embeds": embeddings[build_epsilon_base.EMPTY_PROMPT :]},
    )
    trainer = TimedTrainer(pipeline, options.arguments, options.method(), data, callbacks=[progress])
    trainer.seconds = args.seconds
    trainer.prepare()
    for batch in trainer.loader:
        if trainer.progress(progress.step) >= 1:
            break
        trainer.begin_step()
        trainer.train_micro_batch(batch)
    trainer.save(step=progress.step)
    return {
        "steps": progress.step,
        "seconds": time.perf_counter() - trainer.start,
        "trained_parameters": sum(parameter.numel() for parameter in trainer.trainable),
        "progress": progress.rows,
    }


def judge_of(args):
    """Return the judge, and its features of the real training digits."""
    judge = judges.load_judge(args.judge)
    return judge, judges.extract_features(judge, load_split(args.data_dir, "train")[0])


def score_variant(name: str, args) -> list[dict[str, object]]:
    """Load a saved variant and score its images."""
    judge, reference = judge_of(args)
    pipeline = TwinFlowPipeline.from_pretrained(args.output_dir / name).to(args.device)
    noise = initial_noise(pipeline, args.num_samples, args.seed).to(args.device)
    rows, images = [], {}
    for steps in TWINFLOW_STEPS:
        row, images[f"TwinFlow, {steps}"] = score_column(twinflow_column(pipeline, steps), judge, reference, noise)
        rows.append(row)
        print(f"{name}: {row}", flush=True)
    save_comparison(images, PROMPTS, args.output_dir / name / "comparison.png")
    return rows


def score_base(args) -> list[dict[str, object]]:
    """Score the base with its own scheduler, with and without guidance, at few steps, and through the bridge."""
    judge, reference = judge_of(args)
    rows = [score_real_digits(judge, args.data_dir, reference)]
    pipeline = StableDiffusionPipeline.from_pretrained(args.base).to(args.device)
    noise = initial_noise(pipeline, args.num_samples, args.seed).to(args.device)
    ways = [(f"guidance {scale:g}", BASE_STEPS, scale) for scale in GUIDANCE_SCALES]
    ways += [(f"{steps} steps", steps, 1.0) for steps in TWINFLOW_STEPS] + [("bridged", BASE_STEPS, 1.0)]
    for name, steps, guidance_scale in ways:
        if name == "bridged":
            pipeline.scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config, sampling_style="multi")
        row, _ = score_column(base_column(pipeline, steps, guidance_scale), judge, reference, noise)
        rows.append(row | {"name": f"base, {name}"})
        print(rows[-1], flush=True)
        write_report({"columns": rows}, args.output_dir / "base.json")
    return rows


def run_part(name: str, args) -> None:
    """Run one part in this process, and write its result or its error to the folder."""
    try:
        if name == "base":
            result = {"columns": score_base(args)}
        else:
            result = {"options": VARIANTS[name], "training": distil(name, args)}
            write_report(result, args.output_dir / f"{name}.json")
            result |= {"columns": score_variant(name, args)}
    except Exception:
        traceback.print_exc()
        result = {"error": traceback.format_exc()}
    write_report(result, args.output_dir / f"{name}.json")


def make_base(args) -> None:
    """Train the base, with a CUDA graph if there is a GPU and the graph works, else with ordinary steps."""
    made = Path(args.base, build_epsilon_base.MADE_NAME)
    if made.is_file():
        return
    command = [sys.executable, str(REPOSITORY / "examples/digits/build_epsilon_base.py"), "--device", args.device]
    command += ["--data_dir", args.data_dir, "--output_dir", args.base, "--steps", str(args.base_steps)]
    command += ["--minutes", str(args.base_minutes), "--channels", *map(str, args.channels)]
    if args.device == "cuda":
        try:
            subprocess.run([*command, "--cuda_graph"], check=True, timeout=60 * args.base_minutes + args.grace_seconds)
            if read_result(made)["last_loss"] < WORST_BASE_LOSS:
                return
            print(f"the base does not learn as a CUDA graph: {read_result(made)}", flush=True)
        except subprocess.SubprocessError as error:
            print(f"the base as a CUDA graph: {error}", flush=True)
    subprocess.run(command, check=True)


def start_part(name: str, number: int, args) -> subprocess.Popen:
    environment_of_part = os.environ | {"OMP_NUM_THREADS": "1"}
    if args.device == "cuda":
        environment_of_part |= {"CUDA_VISIBLE_DEVICES": args.gpus[number % len(args.gpus)]}
    log = (args.output_dir / f"{name}.log").open("w")
    command = [sys.executable, *sys.argv, "--part", name]
    return subprocess.Popen(command, env=environment_of_part, stdout=log, stderr=subprocess.STDOUT)


def wait_for(parts: dict[str, subprocess.Popen], args) -> None:
    """Print each result when it is there, and end processes that are not done in time."""
    deadline = time.monotonic() + args.seconds + args.grace_seconds
    waiting = dict(parts)
    while waiting:
        for name in [name for name, part in waiting.items() if part.poll() is not None]:
            del waiting[name]
            print(f"{name}: {summary(args.output_dir / f'{name}.json')}", flush=True)
        if time.monotonic() > deadline:
            for name, part in waiting.items():
                part.kill()
                print(f"{name}: ended, out of time; see {args.output_dir / f'{name}.log'}", flush=True)
            return
        time.sleep(0.5)


def read_result(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"error": "no result: see its log"}


def summary(path: Path) -> str:
    result = read_result(path)
    if "error" in result:
        return result["error"].strip().splitlines()[-1]
    steps = f"{result['training']['steps']} steps; " if "training" in result else ""
    rows = [f"{row['name']}: {row['frechet_distance']:.2f} ({row['agreement']:.1%})" for row in result["columns"]]
    return steps + ", ".join(rows)


def choose(parts: dict[str, dict]) -> tuple[str, float] | None:
    """Return the LoRA with the lowest distance at one step, and the best guidance of the base."""
    scores = {
        name: part["columns"][0]["frechet_distance"]
        for name, part in parts.items()
        if name.startswith("lora") and "error" not in part
    }
    guided = dict(zip(GUIDANCE_SCALES[1:], parts["base"].get("columns", [])[2 : 1 + len(GUIDANCE_SCALES)]))
    if not scores or not guided:
        return None
    return min(scores, key=scores.get), min(guided, key=lambda scale: guided[scale]["frechet_distance"])


def write_chosen(name: str, part: dict, args) -> Path:
    """Write a recipe that trains the chosen LoRA with as many steps."""
    options = json.loads(Path(args.config).read_text(encoding="utf-8")) | VARIANTS[name]
    steps = {"max_train_steps": part["training"]["steps"], "checkpointing_steps": part["training"]["steps"]}
    path = args.output_dir / "chosen.json"
    write_report(options | steps | {"train_batch_size": args.batch_size}, path)
    return path


def run_demo(parts: dict[str, dict], args) -> dict[str, object]:
    """Run the demo with the chosen options."""
    chosen = choose(parts)
    if chosen is None:
        return {"error": "no LoRA or no guided base to choose from"}
    name, guidance_scale = chosen
    command = [sys.executable, "examples/digits/epsilon_demo.py", "--base", args.base, "--judge", args.judge]
    command += ["--data_dir", args.data_dir, "--config", str(write_chosen(name, parts[name], args))]
    command += ["--base_guidance_scale", str(guidance_scale), "--num_samples", str(args.num_samples)]
    command += ["--device", args.device, "--output_dir", str(args.output_dir / "demo")]
    print(f"chosen: {name}, guidance {guidance_scale:g}: {' '.join(command)}", flush=True)
    try:
        subprocess.run(command, check=True, timeout=60 * args.demo_minutes)
    except subprocess.SubprocessError as error:
        print(f"demo: {error}", flush=True)
        return {"chosen": name, "command": command[1:], "error": str(error)}
    return {"chosen": name, "command": command[1:], "report": str(args.output_dir / "demo" / "report.json")}


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    small = not torch.cuda.is_available()
    folder = "outputs/epsilon_rehearsal" if small else "outputs/epsilon_sweep"
    parser.add_argument("--output_dir", type=Path, default=Path(folder))
    parser.add_argument("--output", type=Path, help="JSON file for all results together.")
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS)[: 1 if small else None]
    )
    parser.add_argument(
        "--config", default="examples/digits/distill_epsilon_lora.json", help="Recipe that the variants change."
    )
    base = f"{folder}/base" if small else build_epsilon_base.DEFAULT_OUTPUT_DIR
    parser.add_argument("--base", default=base, help="Folder of the base, which is trained if it does not exist.")
    parser.add_argument("--base_steps", type=int, default=20000, help="Maximum number of steps of the base.")
    parser.add_argument("--base_minutes", type=float, default=0.2 if small else 1.5)
    parser.add_argument(
        "--channels",
        type=int,
        nargs="+",
        default=[16, 16] if small else [96, 192],
        help="Channels of the base's UNet, per resolution.",
    )
    parser.add_argument(
        "--data_dir", default=DEFAULT_DATA_DIR, help="Folder of the digits, which is made if it does not exist."
    )
    parser.add_argument("--judge", default=judges.DEFAULT_JUDGE_PATH)
    parser.add_argument(
        "--seconds",
        type=float,
        default=10 if small else 120,
        help="Seconds to distill each variant, all at the same time.",
    )
    parser.add_argument("--grace_seconds", type=float, default=120, help="Additional seconds to load and score.")
    parser.add_argument("--max_steps", type=int, default=100000, help="Maximum number of steps of the distillation.")
    parser.add_argument("--batch_size", type=int, default=128, help="Batch size of the distillation.")
    parser.add_argument("--num_samples", type=int, default=100 if small else 1000)
    parser.add_argument("--seed", type=int, default=0, help="Seed of the noise that the samples start from.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gpus", nargs="+", default=[str(i) for i in range(torch.cuda.device_count())])
    parser.add_argument(
        "--demo_minutes", type=float, default=0, help="Minutes to run the demo with the best LoRA; 0 skips it."
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    os.chdir(REPOSITORY)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.part:
        run_part(args.part, args)
        return
    started = time.perf_counter()
    ensure_data(args.data_dir)
    if not Path(args.judge).is_file():
        judges.main(judges.parse_args(["--data_dir", args.data_dir, "--output", args.judge]))
    make_base(args)
    base_seconds = time.perf_counter() - started
    names = ["base", *args.variants]
    wait_for({name: start_part(name, number, args) for number, name in enumerate(names)}, args)
    parts = {name: read_result(args.output_dir / f"{name}.json") for name in names}
    report = {
        "parts": parts,
        "base": read_result(Path(args.base, build_epsilon_base.MADE_NAME)),
        "seconds": {"base": base_seconds, "total": time.perf_counter() - started},
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "command": ["python", *sys.argv],
        **environment(),
    }
    for path in filter(None, (args.output_dir / "report.json", args.output)):
        write_report(report, path)
        print(path, flush=True)
    if args.demo_minutes:
        write_report(run_demo(parts, args), args.output_dir / "demo.json")


if __name__ == "__main__":
    main(parse_args())
