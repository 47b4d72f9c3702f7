"""The training script's own step, on a base with random weights and on random latents and prompts."""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.optimization import get_scheduler

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods.teachers import copy_for_teacher
from diffusers_twinflow.training.distributed import place_teacher
from diffusers_twinflow.training.health import TrainingHealth
from diffusers_twinflow.training.optimizer import build_optimizer

from .models import RealModel

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import train_twinflow as script

FULL_TWINFLOW = ["--twinflow_enabled", "--twinflow_adversarial_enabled", "--twinflow_estimate_order=2"]


def script_arguments(batch: int, gradient_checkpointing: bool, *more: str) -> argparse.Namespace:
    """Arguments of the training script for bfloat16; what they leave out is the script's default."""
    given = ["--pretrained_model_name_or_path=random", "--mixed_precision=bf16", f"--train_batch_size={batch}", *more]
    return script.parse_args(given + ["--gradient_checkpointing"] * gradient_checkpointing)


class OurTraining:
    """The steps of `examples/train_twinflow.py`, which takes them itself.

    Args:
        transformer: the frozen base.
        args: from `script_arguments`.
        latents: the samples of a step of this process.
    """

    def __init__(self, model: RealModel, transformer: ModelMixin, args: argparse.Namespace, latents: torch.Tensor):
        self.config = TwinFlowConfig.from_dict({name: getattr(args, name) for name in TwinFlowConfig.option_names()})
        self.accelerator = script.build_accelerator(args)
        family, device = model.family_object, latents.device
        script.prepare_transformer(transformer, args, self.config, family)
        self.batch, self.position, self.grad_norm = len(latents), 0, None
        self.step_samples = self.batch * self.accelerator.num_processes
        optimizer = build_optimizer(args, transformer, self.step_samples)
        lr_scheduler = get_scheduler(args.lr_scheduler, optimizer)
        teacher_copy = copy_for_teacher(transformer, self.config, args.use_ema)
        wrapped, optimizer, lr_scheduler = self.accelerator.prepare(transformer, optimizer, lr_scheduler)
        if teacher_copy is not None:
            teacher_copy = place_teacher(self.accelerator, teacher_copy, args.offload_ema)
        condition = model.condition(len(latents), device, torch.bfloat16)
        empty = model.condition(1, device, torch.bfloat16)
        self.run = SimpleNamespace(
            args=args,
            config=self.config,
            accelerator=self.accelerator,
            model=wrapped,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            schedule=script.Schedule(self.step_samples, first_step=0, total_steps=0, validation_steps=0),
            trainable=[parameter for parameter in transformer.parameters() if parameter.requires_grad],
            data=SimpleNamespace(read=lambda batch: (latents, condition), read_unconditional=lambda batch: None),
            compute_loss=script.build_loss(
                args, self.config, family, wrapped, transformer, lambda _: empty, teacher_copy
            ),
            health=TrainingHealth(optimizer.optimizer, device),
        )

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.run.trainable)

    def next_branches(self) -> list[str]:
        """The branches that the samples of the coming step train; none for flow matching."""
        rotation = self.run.compute_loss.rotation
        return [branch.value for branch in rotation.at(self.next_positions())] if rotation else []

    def next_positions(self) -> list[int]:
        """Where the samples of this process in the coming step stand in the run."""
        first = self.position + self.accelerator.process_index * self.batch
        return list(range(first, first + self.batch))

    def step(self) -> None:
        if self.run.compute_loss.teacher is not None:
            self.run.compute_loss.teacher.update()
        self.grad_norm = script.train_micro_batch(self.run, {"position": self.next_positions()})
        self.position += self.step_samples

    def close(self) -> None:
        """Let accelerate go of the model."""
        self.accelerator.free_memory()
        del self.run
