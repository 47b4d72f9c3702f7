"""The package's own training step, on a base with random weights and on random latents and prompts."""

from itertools import repeat

import torch
from diffusers.models.modeling_utils import ModelMixin

from diffusers_twinflow.cli.train import parse_args
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training.callbacks import HealthCallback
from diffusers_twinflow.training.recipe import RunOptions
from diffusers_twinflow.training.trainer import Trainer

from .models import RealModel

FULL_TWINFLOW = ["--twinflow_enabled", "--twinflow_adversarial_enabled", "--twinflow_estimate_order=2"]
MORE_STEPS_THAN_TIMED = 1_000_000


def run_options(batch: int, gradient_checkpointing: bool, *more: str) -> RunOptions:
    """Return the options of a run from arguments of the training command. The default is bfloat16."""
    given = ["--mixed_precision=bf16", f"--train_batch_size={batch}", f"--max_train_steps={MORE_STEPS_THAN_TIMED}"]
    return parse_args([*given, *more, *["--gradient_checkpointing"] * gradient_checkpointing])


class OurTraining:
    """Takes the steps of a `Trainer` one by one.

    Args:
        transformer: the frozen base.
        options: from `run_options`.
        latents: the samples of this process; every step has the same ones.
    """

    def __init__(self, model: RealModel, transformer: ModelMixin, options: RunOptions, latents: torch.Tensor):
        dtype = torch.float32 if options.arguments.mixed_precision == "no" else torch.bfloat16

        def condition(batch: int) -> dict[str, torch.Tensor]:
            return model.condition(batch, latents.device, dtype)

        data = LatentBatches(
            repeat({"latents": latents, "condition": condition(len(latents))}),
            seed=options.arguments.seed,
            batch_size=len(latents),
            empty_condition=condition(1),
        )
        self.trainer = Trainer(
            transformer,
            options.arguments,
            options.method(),
            data,
            callbacks=[HealthCallback()],
            family=model.family_object.name,
        )
        self.trainer.prepare()
        self.accelerator = self.trainer.accelerator
        self.batches = iter(self.trainer.loader)
        self.next_batch = next(self.batches)
        self.grad_norm: torch.Tensor | None = None

    @property
    def step_samples(self) -> int:
        """Number of samples per step, over all processes."""
        return self.trainer.schedule.step_samples

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.trainer.trainable)

    @property
    def cycle(self) -> int:
        """Number of samples after which the branches come again; 1 for flow matching."""
        method = self.trainer.method
        return len(method.rotation.cycle) if isinstance(method, TwinFlow) else 1

    def next_branches(self) -> list[str]:
        """The branches that train the samples of the next step; none for flow matching."""
        method = self.trainer.method
        positions = self.next_batch["position"]
        return method.rotation.at(positions) if isinstance(method, TwinFlow) else []

    def step(self) -> None:
        self.trainer.begin_step()
        self.grad_norm = self.trainer.train_micro_batch(self.next_batch)
        self.next_batch = next(self.batches)

    def close(self) -> None:
        """Let accelerate release the model."""
        self.accelerator.free_memory()
        del self.trainer, self.batches
