"""The training command with one part of the run replaced, for the ablations of the benchmark.

python benchmarks/quality/train_ablated.py --times negative <arguments of the training command>
"""

import argparse
from dataclasses import dataclass, fields, replace

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig

from diffusers_twinflow.cli.train import main as train
from diffusers_twinflow.families.stable_diffusion_3 import StableDiffusion3Family
from diffusers_twinflow.training.trainer import Trainer

WEIGHTS = 0
"""Index of the optimizer's group of weights; the next group is the time conditioning."""


class NegativeTimes(StableDiffusion3Family):
    """The twin's trajectory has negative times `-t` and `-r`; the sign embedding is not used."""

    def times(self, t, r, sign):
        return {"timestep": self.timestep(sign * t), "target_timestep": self.timestep(sign * r)}


class SqueezedTimes(StableDiffusion3Family):
    """Both times become one number `t - r/2`; the sign embedding is used, the target embedding is not."""

    def times(self, t, r, sign):
        return {"timestep": self.timestep(t - r / 2), "timestep_sign": sign}


TIMES = {"negative": NegativeTimes(), "squeezed": SqueezedTimes()}


@dataclass(frozen=True)
class Ablation:
    """What an ablation changes; a field that is `None` changes nothing.

    Attributes:
        times: how both times reach the transformer, a name in `TIMES`.
        ranks: rank of the LoRA per layer, such as `ff.net.2=96`; other layers have `--rank`. The scale is 1 everywhere.
        align_steps: number of steps at the start in which only the time conditioning is trained.
        second_factor_rate: learning rate of the LoRA factor that starts at zero, as a multiple of `--learning_rate`
            (LoRA+, https://arxiv.org/abs/2402.12354).
    """

    times: str | None = None
    ranks: list[str] | None = None
    align_steps: int | None = None
    second_factor_rate: float | None = None


class AblatedTrainer(Trainer):
    """A trainer with the changes of its `ablation`."""

    ablation = Ablation()

    @classmethod
    def of(cls, ablation: Ablation) -> "type[AblatedTrainer]":
        """The trainer class for one ablation."""
        return type(cls.__name__, (cls,), {"ablation": ablation})

    def velocity_of(self, transformer: torch.nn.Module):
        if self.ablation.times is None:
            return super().velocity_of(transformer)
        return TIMES[self.ablation.times].velocity(transformer)

    def build_lora_config(self, transformer: ModelMixin) -> LoraConfig:
        config = super().build_lora_config(transformer)
        if self.ablation.ranks is None:
            return config
        ranks = {name: int(rank) for name, rank in (pair.split("=") for pair in self.ablation.ranks)}
        return replace(config, rank_pattern=ranks, alpha_pattern=ranks)

    def build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        scheduler = super().build_lr_scheduler(optimizer)
        if self.ablation.align_steps is None:
            return scheduler
        first_step = self.ablation.align_steps * self.accelerator.num_processes
        rate, *others = scheduler.lr_lambdas

        def held_back(step: int) -> float:
            return 0.0 if step < first_step else rate(step)

        return torch.optim.lr_scheduler.LambdaLR(optimizer, [held_back, *others])

    def build_parameter_groups(self, transformer, learning_rate, time_conditioning_learning_rate):
        groups = super().build_parameter_groups(transformer, learning_rate, time_conditioning_learning_rate)
        if self.ablation.second_factor_rate is None:
            return groups
        names = {parameter: name for name, parameter in transformer.named_parameters()}
        weights = groups[WEIGHTS]["params"]
        second = [parameter for parameter in weights if ".lora_B." in names[parameter]]
        groups[WEIGHTS]["params"] = [parameter for parameter in weights if ".lora_B." not in names[parameter]]
        return [*groups, {"params": second, "lr": self.ablation.second_factor_rate * learning_rate}]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--times", choices=TIMES, help="How both times reach the transformer.")
    parser.add_argument("--ranks", nargs="+", help="Rank per layer, such as attn.to_q=32 ff.net.2=96.")
    parser.add_argument("--align_steps", type=int, help="Number of steps that train only the time conditioning.")
    parser.add_argument(
        "--second_factor_rate", type=float, help="Learning rate of the LoRA's second factor, times --learning_rate."
    )
    return parser


def main(input_args: list[str] | None = None) -> None:
    args, rest = build_parser().parse_known_args(input_args)
    ablation = Ablation(**{each.name: getattr(args, each.name) for each in fields(Ablation)})
    train(rest, trainer_class=AblatedTrainer.of(ablation))


if __name__ == "__main__":
    main()
