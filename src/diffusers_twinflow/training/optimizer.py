"""Build the optimizer of a run and its learning rate schedule."""

import importlib.util
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from transformers.optimization import get_wsd_schedule

from ..configuration import TwinFlowConfigError
from .arguments import ADAMW, PRODIGY, WARMUP_STABLE_DECAY, TrainingArguments

CONDITIONING_NAME = "time_conditioning"
SMALLEST_PRODIGY_RATE = 0.1


def check_optimizer(args: TrainingArguments) -> None:
    """Check the optimizer options.

    Raises:
        TwinFlowConfigError: if options contradict each other, or the optimizer's package is not installed.
    """
    if args.use_8bit_adam:
        if args.optimizer != ADAMW:
            raise TwinFlowConfigError(
                f"`use_8bit_adam` works only with AdamW, not with optimizer={args.optimizer}. Leave one of them out."
            )
        _require_package("bitsandbytes", "`use_8bit_adam`")
    if args.optimizer == PRODIGY:
        _require_package("prodigyopt", "optimizer=prodigy")
        if args.learning_rate < SMALLEST_PRODIGY_RATE:
            raise TwinFlowConfigError(
                f"learning_rate={args.learning_rate} is too small for optimizer=prodigy, which estimates the rate and "
                "multiplies it by this value. Set learning_rate=1."
            )
        if args.time_conditioning_learning_rate not in (None, args.learning_rate):
            raise TwinFlowConfigError(
                "optimizer=prodigy has only one learning rate. Leave `time_conditioning_learning_rate` out."
            )


def _require_package(name: str, option: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise TwinFlowConfigError(f"{option} needs a package that is not installed: pip install {name}.")


def parameter_groups(
    transformer: torch.nn.Module, learning_rate: float, time_conditioning_learning_rate: float | None
) -> list[dict]:
    """Return the trained parameters in two groups: the weights, and the time conditioning with its learning rate."""
    conditioning: list[torch.nn.Parameter] = []
    weights: list[torch.nn.Parameter] = []
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            (conditioning if CONDITIONING_NAME in name.split(".") else weights).append(parameter)
    return [
        {"params": weights, "lr": learning_rate},
        {"params": conditioning, "lr": time_conditioning_learning_rate or learning_rate},
    ]


def build_optimizer(
    args: TrainingArguments, groups: list[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Build the optimizer from the arguments.

    Args:
        groups: parameter groups, each with its learning rate.
        learning_rate: learning rate of groups that have none.
    """
    options: dict[str, Any] = {
        "lr": learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "weight_decay": args.adam_weight_decay,
        "eps": args.adam_epsilon,
    }
    if args.optimizer == PRODIGY:
        from prodigyopt import Prodigy

        return Prodigy(
            groups,
            **options,
            beta3=args.prodigy_beta3,
            decouple=args.prodigy_decouple,
            use_bias_correction=args.prodigy_use_bias_correction,
            safeguard_warmup=args.prodigy_safeguard_warmup,
        )
    if args.use_8bit_adam:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **options)
    return torch.optim.AdamW(groups, **options, fused=True)


def build_lr_scheduler(
    args: TrainingArguments, optimizer: torch.optim.Optimizer, total_steps: int, num_processes: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Build the learning rate schedule from the arguments.

    Args:
        total_steps: number of optimizer steps of the run.
        num_processes: number of processes, because accelerate advances the schedule once per process.
    """
    warmup = args.lr_warmup_steps * num_processes
    if args.lr_scheduler == WARMUP_STABLE_DECAY:
        decay_steps = min(round(args.lr_decay_share * total_steps), max(0, total_steps - args.lr_warmup_steps))
        return get_wsd_schedule(
            optimizer,
            num_warmup_steps=warmup,
            num_decay_steps=decay_steps * num_processes,
            num_training_steps=total_steps * num_processes,
            decay_type="linear",
        )
    return get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total_steps * num_processes,
        num_cycles=args.lr_num_cycles,
        power=args.lr_power,
    )


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rates of the next step by their logged names. They include Prodigy's factor."""
    names = ("lr", "lr/time_conditioning")
    groups = zip(names, optimizer.param_groups)  # DeepSpeed drops the second group if it is empty
    return {name: group["lr"] * group.get("d", 1.0) for name, group in groups if group["params"]}
