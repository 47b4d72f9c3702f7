"""Compare replayed passes (CUDA graphs) with ordinary ones: gradients of one batch, and losses of some steps."""

import argparse
from dataclasses import replace
from typing import Any

import torch

from diffusers_twinflow.training.callbacks import TrainerCallback

from .building import random_transformer
from .models import SD35_MEDIUM, RealModel
from .ours import FULL_TWINFLOW, OurTraining, run_options

LAYERS = 4
STEPS = 6
BATCH = 4
WAYS = {
    "bf16": {
        "LoRA": [*FULL_TWINFLOW],
        "full weights": [*FULL_TWINFLOW, "--train_type=full"],
        "LoRA, two micro-batches": [*FULL_TWINFLOW, "--gradient_accumulation_steps=2"],
    },
    "no": {"LoRA": [*FULL_TWINFLOW], "full weights": [*FULL_TWINFLOW, "--train_type=full"]},
}
"""Options of the training command by `--mixed_precision`. A process can have only one."""


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_loss(self, trainer: Any, output: Any, batch_size: int) -> None:
        self.found.append(output.loss.detach())


def shallow_model(tiny: bool) -> RealModel:
    model = SD35_MEDIUM.tiny() if tiny else SD35_MEDIUM
    layers = {"num_layers": LAYERS, "dual_attention_layers": (0, 1)}
    return replace(model, transformer={**model.transformer, **layers})


def results_of(args: argparse.Namespace, precision: str, options: list[str], cuda_graphs: bool) -> dict[str, Any]:
    """Return the gradients of a batch at random weights, and the losses and gradient norms of the next steps."""
    torch.manual_seed(0)
    device, model = torch.device(args.device), shallow_model(args.tiny)
    dtype = torch.float32 if precision == "no" or "--train_type=full" in options else torch.bfloat16
    given = [*options, f"--rank={args.rank}", f"--mixed_precision={precision}", "--learning_rate=1e-4"]
    run = run_options(BATCH, False, *given, *["--cuda_graphs"] * cuda_graphs)
    latents = model.latents(BATCH, 64 if args.tiny else 512, device)
    training = OurTraining(model, random_transformer(model, device, dtype), run, latents)
    trainer, losses = training.trainer, Losses()
    trainer.callbacks.append(losses)
    generator = torch.Generator(device).manual_seed(1)
    for parameter in trainer.trainable:
        noise = torch.randn(parameter.shape, generator=generator, device=device, dtype=parameter.dtype)
        parameter.data.add_(noise, alpha=0.01)
    trainer.begin_step()
    for _ in range(3):  # the second pass is recorded, the third is a replay
        trainer.optimizer.zero_grad()
        with trainer.accelerator.autocast(), trainer.merged.used() if trainer.merged else torch.enable_grad():
            trainer.loss(training.next_batch).loss.backward()
    names = {id(parameter): name for name, parameter in trainer.transformer.named_parameters()}
    gradients = {names[id(each)]: each.grad.float().cpu() for each in trainer.trainable if each.grad is not None}
    trainer.optimizer.zero_grad()
    for _ in range(STEPS):
        training.step()
    found = {"gradients": gradients, "losses": torch.stack(losses.found).float().cpu()}
    training.close()
    return found


def compare(args: argparse.Namespace, precision: str, way: str) -> dict[str, Any]:
    """Return the differences of gradients and losses between replayed and ordinary passes, relative to the largest."""
    options = WAYS[precision][way]
    eager = results_of(args, precision, options, False)
    replayed = results_of(args, precision, options, args.device == "cuda")
    pairs = [(replayed["gradients"][name], wanted) for name, wanted in eager["gradients"].items()]
    return {
        "name": way,
        "mixed_precision": precision,
        "same_parameters": eager["gradients"].keys() == replayed["gradients"].keys(),
        "parameters": len(pairs),
        "equal_parameters": sum(bool(torch.equal(found, wanted)) for found, wanted in pairs),
        "gradient_difference": max(
            ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item() for found, wanted in pairs
        ),
        "losses": eager["losses"].tolist(),
        "replayed_losses": replayed["losses"].tolist(),
        "loss_difference": ((replayed["losses"] - eager["losses"]) / eager["losses"]).abs().max().item(),
    }
