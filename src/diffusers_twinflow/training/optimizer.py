"""The optimizer of a run."""

import torch

CONDITIONING_PREFIX = "time_conditioning."


def parameter_groups(
    transformer: torch.nn.Module, learning_rate: float, time_conditioning_learning_rate: float | None
) -> list[dict]:
    """What trains, in two groups: the weights, and the time conditioning with a learning rate of its own."""
    conditioning, weights = [], []
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            (conditioning if name.startswith(CONDITIONING_PREFIX) else weights).append(parameter)
    return [
        {"params": weights, "lr": learning_rate},
        {"params": conditioning, "lr": time_conditioning_learning_rate or learning_rate},
    ]


def build_optimizer(args, transformer: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer that the script's arguments ask for."""
    return torch.optim.AdamW(
        parameter_groups(transformer, args.learning_rate, args.time_conditioning_learning_rate),
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        weight_decay=args.adam_weight_decay,
        eps=args.adam_epsilon,
        fused=True,
    )
