"""What a user of the public API writes. It is not run: `test_typing.py` has mypy check it."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import nn

from diffusers_twinflow import TwinFlowConfig, TwinFlowPipeline, TwinFlowScheduler, load_twinflow_lora
from diffusers_twinflow.conditions import Condition
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.evaluation import (
    Evaluation,
    EvaluationArguments,
    EvaluationPrompt,
    LoraSubject,
    Metric,
    plan_evaluation,
)
from diffusers_twinflow.hub import TwinFlowRepositoryConfig
from diffusers_twinflow.hub.files import locate_repository
from diffusers_twinflow.methods import FlowMatching, LossOutput, Method, Networks, TwinFlow
from diffusers_twinflow.training import Trainer, TrainerCallback, TrainingArguments

scheduler = TwinFlowScheduler(sampling_style="few", gap_end=[0.6, 0.5])
scheduler.set_timesteps(2, device="cpu")
sigmas: torch.Tensor = scheduler.sigmas

pipe = TwinFlowPipeline.from_pretrained("me/my-lora", dtype=torch.bfloat16)
pipe.to("cpu")
image = pipe("a seven", num_inference_steps=2).images[0]
steps: int = pipe.twinflow_config.num_inference_steps

stock = DiffusionPipeline.from_pretrained("base")
load_twinflow_lora(stock, "me/my-lora", merge=True)

config = TwinFlowConfig(twinflow_enabled=True)
methods: list[Method[Any]] = [TwinFlow(config, teacher="frozen"), FlowMatching()]


class Scaled(TwinFlow):
    def loss(self, latents: torch.Tensor, condition: Condition, draw: Any, networks: Networks) -> LossOutput:
        output = super().loss(latents, condition, draw, networks)
        return LossOutput(2 * output.loss, output.per_sample, output.parts, output.branches)


class Plain:
    name = "plain"
    config = TwinFlowConfig()
    use_ema = False
    branch_names: Sequence[str] = ()
    branch_cycle: Sequence[str] = ()
    part_names: Sequence[str] = ()
    needs_unconditional = False

    def options(self) -> dict[str, Any]:
        return {}

    def add_teacher(self, transformer: nn.Module, lora_config: Any) -> None: ...

    def copy_for_teacher(self, transformer: nn.Module) -> nn.Module | None:
        return None

    def build_teacher(self, transformer: nn.Module, velocity_of: Any, copy: nn.Module | None = None) -> None:
        return None

    def draw(
        self,
        positions: Sequence[int],
        latent_shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str,
        passes_of: Sequence[int] | None = None,
    ) -> torch.Tensor:
        return torch.rand(len(positions), *latent_shape)

    def loss(self, latents: torch.Tensor, condition: Condition, draw: torch.Tensor, networks: Networks) -> LossOutput:
        t = torch.full((len(latents),), 0.5)
        error = (networks.student(latents, t, None, None, condition) - draw).square().flatten(1).mean(1)
        return LossOutput(error.mean(), error.detach())


pipe.load_lora_weights("someone/style", adapter_name="style")
pipe.set_adapters(["twinflow", "style"], [1.0, 0.7])


class Shown(TrainerCallback):
    def on_log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        self.last: float = values["loss"]


arguments = TrainingArguments("base", train_batch_size=1, output_dir="out")
data = LatentBatches([{"latents": torch.zeros(4), "condition": {}}], seed=0, batch_size=1)
methods += [Scaled(config), Plain()]
for method in methods:
    trainer = Trainer(None, arguments, method, data, callbacks=[Shown()])
    trainer.train()
    trainer.save("elsewhere")
    scores: dict[str, float] = trainer.evaluate()
trainer.push_to_hub("me/my-lora")

evaluated = locate_repository("me/my-lora")
plan = plan_evaluation(
    EvaluationArguments(prompts="prompts.txt", metrics=["judge"], judge="my_judge:judge"),
    evaluated,
    TwinFlowRepositoryConfig.load_located(evaluated),
)
evaluation = Evaluation(plan, Accelerator())


class Brightness:
    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        self.values += images.float().mean((1, 2, 3)).tolist()

    def compute(self) -> dict[str, float]:
        return {"brightness": sum(self.values) / len(self.values)}

    def reset(self) -> None:
        self.values = []

    def to(self, device: torch.device | str) -> None: ...


metrics: list[Metric] = [*evaluation.build_metrics(), Brightness()]
evaluation.run(metrics, LoraSubject(pipe), {"height": 512, "width": 512})
