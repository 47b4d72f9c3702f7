"""The training script with something done in another way, for the ablations of the benchmark.

    python benchmarks/quality/train_ablated.py --times negative <arguments of examples/train_twinflow.py>

What is done in another way, by the names in `ABLATIONS`.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import train_twinflow
from diffusers_twinflow.families.stable_diffusion_3 import StableDiffusion3Family
from diffusers_twinflow.training import base_model, optimizer

WEIGHTS = 0
"""The optimizer's group of them; the other is the time conditioning."""


def negative_times(family, t, r, sign):
    """The twin's trajectory is told by negative times `-t`, `-r`; the sign embedding is not used."""
    return {"timestep": family.timestep(sign * t), "target_timestep": family.timestep(sign * r)}


def squeezed_times(family, t, r, sign):
    """Both times as the one number `t - r/2`; the target embedding is not used, the sign embedding is."""
    return {"timestep": family.timestep(t - r / 2), "timestep_sign": sign}


TIMES = {"negative": negative_times, "squeezed": squeezed_times}


def give_times(how: str) -> None:
    StableDiffusion3Family.times = TIMES[how]


def set_ranks(ranks: list[str]) -> None:
    """Ranks of a LoRA by layer, such as `ff.net.2=96`; the rest have `--rank`. The scale is 1, as with one rank."""
    pattern = {name: int(rank) for name, rank in (pair.split("=") for pair in ranks)}
    base_model.LoraConfig = partial(base_model.LoraConfig, rank_pattern=pattern, alpha_pattern=pattern)


def align_time_conditioning(steps: int) -> None:
    """Train the time conditioning alone for the first `steps`."""
    build = train_twinflow.get_scheduler

    def held_back(*args, **options):
        scheduler = build(*args, **options)
        rate = scheduler.lr_lambdas[WEIGHTS]
        scheduler.lr_lambdas[WEIGHTS] = lambda step: 0.0 if step < steps else rate(step)
        scheduler.optimizer.param_groups[WEIGHTS]["lr"] = 0.0
        return scheduler

    train_twinflow.get_scheduler = held_back


def raise_second_factor(times: float) -> None:
    """A higher learning rate for the factor of a LoRA that begins at zero (LoRA+, https://arxiv.org/abs/2402.12354)."""
    group_all = optimizer.parameter_groups

    def parameter_groups(transformer, learning_rate, time_conditioning_learning_rate):
        groups = group_all(transformer, learning_rate, time_conditioning_learning_rate)
        names = {parameter: name for name, parameter in transformer.named_parameters()}
        second = [parameter for parameter in groups[WEIGHTS]["params"] if ".lora_B." in names[parameter]]
        chosen = set(second)
        groups[WEIGHTS]["params"] = [parameter for parameter in groups[WEIGHTS]["params"] if parameter not in chosen]
        return [*groups, {"params": second, "lr": times * learning_rate}]

    optimizer.parameter_groups = parameter_groups


ABLATIONS = {
    "times": (give_times, {"choices": TIMES, "help": "How both times reach the transformer."}),
    "ranks": (set_ranks, {"nargs": "+", "help": "By layer, such as attn.to_q=32 ff.net.2=96."}),
    "align_steps": (align_time_conditioning, {"type": int, "help": "In which the time conditioning trains alone."}),
    "second_factor_rate": (raise_second_factor, {"type": float, "help": "Of a LoRA, times --learning_rate."}),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, (_, options) in ABLATIONS.items():
        parser.add_argument(f"--{name}", **options)
    return parser


def main(input_args: list[str] | None = None) -> None:
    args, rest = build_parser().parse_known_args(input_args)
    for name, (change, _) in ABLATIONS.items():
        value = getattr(args, name)
        if value is not None:
            change(value)
    train_twinflow.main(rest)


if __name__ == "__main__":
    main()
