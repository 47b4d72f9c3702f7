"""Distill the base with the TwinFlow authors' code, from a checkout of their repository.

Their method, their wrapper of the transformer and the settings of their recipes for Stable Diffusion 3.5 are used:
`src/configs/sd_task/sd35_full.yaml` and `sd35_lora_2order.yaml`. For this base, the batch size, the learning rate and its
schedule are replaced by those of our recipe, and the condition without a prompt by the empty prompt.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch import nn

from at_real_size.reference import ReferenceModel, load_method_class, random_state_of
from diffusers_twinflow.recommended import LEARNING_RATES

from .data import Encoded
from .drawing import Condition, Sample
from .timed import Clock, Usage

CONFIGS = {"full": "sd35_full.yaml", "lora": "sd35_lora_2order.yaml"}
METHODS = {"full": "TwinFlow", "lora": "TwinFlow_LoRA"}
FEW = {"sampling_style": "few", "stochast_ratio": 1.0, "rfba_gap_steps": [0.001, 0.7]}
ANY = {"sampling_style": "any", "stochast_ratio": 0.0, "rfba_gap_steps": [0.001, 0.5]}
MOST_FEW_STEPS = 2
"""Their recipes sample one or two steps in the style "few", and more steps in the style "any"."""


class WholeModel(nn.Module):
    """Their model for training all weights: the trained transformer and its average."""

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = transformer
        self.ema_transformer = deepcopy(transformer).requires_grad_(False)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, c: list[torch.Tensor], tt: torch.Tensor) -> torch.Tensor:
        return self.transformer(x_t, t, c, tt)


class AuthorsTraining:
    """Their training step on our base.

    Args:
        checkout: folder of their repository.
        base: folder of the base.
        train_type: "full" or "lora".
    """

    def __init__(self, checkout: Path, base: Path, train_type: str, device: torch.device):
        path = checkout / "src" / "configs" / "sd_task" / CONFIGS[train_type]
        self.recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        options = {name: value for name, value in self.recipe["method"].items() if name != "method_type"}
        self.train_type, self.device, self.options = train_type, device, options
        self.method = load_method_class(checkout, METHODS[train_type])(**options)
        self.model = (self._whole if train_type == "full" else self._adapted)(checkout, base).to(device)
        trained = self.model if train_type == "lora" else self.model.transformer
        self.parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]

    def _whole(self, checkout: Path, base: Path) -> nn.Module:
        classes = load_networks(checkout)
        transformer = classes.SD3Transformer2DModelWrapper.from_pretrained(
            base, subfolder="transformer", low_cpu_mem_usage=False
        )
        transformer.init_time_embed_2_weights()
        return WholeModel(classes.GenTransformer(transformer.requires_grad_(True), 8, True)).train()

    def _adapted(self, checkout: Path, base: Path) -> nn.Module:
        from diffusers import SD3Transformer2DModel

        transformer = SD3Transformer2DModel.from_pretrained(base, subfolder="transformer").requires_grad_(False)
        found = self.recipe["model"]
        lora = LoraConfig(
            r=found["lora_rank"],
            lora_alpha=found["lora_alpha"],
            init_lora_weights="gaussian",
            target_modules=found["lora_target_modules"].split(","),
        )
        adapted = get_peft_model(transformer, lora)
        adapted.add_adapter("old", lora)
        adapted.set_adapter("default")
        return ReferenceModel(adapted).train()

    @property
    def network(self) -> nn.Module:
        """Return the network that samples: a function of noise, time, condition and, for all weights, the target time."""
        return self.model.transformer if self.train_type == "full" else self.model

    def settings(self, samples: Encoded) -> dict[str, object]:
        return {
            **self.options,
            "learning_rate": LEARNING_RATES[self.train_type],
            "their_learning_rate": float(self.recipe["train"]["lr"]),
            "betas": self.recipe["train"]["betas"],
            "weight_decay": self.recipe["train"]["weight_decay"],
            "max_grad_norm": self.recipe["train"]["max_grad_norm"],
            "train_batch_size": samples.batch_size,
            "their_batch_size": self.recipe["train"]["micro_batch_size"],
            "trained_parameters": sum(parameter.numel() for parameter in self.parameters),
        }

    def train(self, samples: Encoded, clock: Clock) -> Usage:
        found = self.recipe["train"]
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=LEARNING_RATES[self.train_type],
            betas=tuple(found["betas"]),
            weight_decay=found["weight_decay"],
            foreach=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, clock.factor)
        empty = expanded(samples.empty, samples.batch_size)
        for number, batch in enumerate(samples):
            condition = list(ordered(batch["condition"]))
            with random_state_of(self.device), precision(self.device):
                loss = self.method.training_step(
                    self.model, batch["latents"].clone(), c=condition, e=empty, step=number, v=None
                )
            loss.backward()
            for parameter in self.parameters:
                if parameter.grad is not None:
                    torch.nan_to_num_(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0)
            nn.utils.clip_grad_norm_(self.parameters, found["max_grad_norm"])
            clock.finish_step(optimizer, schedule)
            if clock.is_over:
                return clock.usage()
        raise RuntimeError("the samples ended before the clock.")

    def sample(self) -> Sample:
        """Their sampler with the options of their recipes."""
        network = self.network.eval()

        def draw(noise: torch.Tensor, condition: Condition, steps: int) -> torch.Tensor:
            style = FEW if steps <= MOST_FEW_STEPS else ANY
            found = self.method.sampling_loop(
                noise,
                network,
                sampling_steps=steps,
                time_dist_ctrl=[1.0, 1.0, 1.0],
                c=list(ordered(condition)),
                **style,
            )
            return found[-1].to(noise.device)

        return draw

    def state(self) -> dict[str, torch.Tensor]:
        return self.network.state_dict()

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.network.load_state_dict(state)


def load_networks(checkout: Path):
    """Their wrapper of the SD3 transformer. Only this part of their networks is imported, because others need more."""
    source = checkout / "src"
    folder = source / "networks"
    if not (folder / "stable_diffusion_3" / "transformer_sd_3.py").is_file():
        raise FileNotFoundError(f"{checkout} has no src/networks/stable_diffusion_3: give the authors' repository.")
    sys.path[:0] = [str(source), str(folder)]
    try:
        model = importlib.import_module("stable_diffusion_3.modeling_sd_3")
    finally:
        del sys.path[:2]
    return model


def ordered(condition: Condition) -> Iterator[torch.Tensor]:
    """Yield the condition in the order of their wrapper."""
    yield condition["prompt_embeds"]
    yield condition["pooled_prompt_embeds"]


def expanded(condition: Condition, count: int) -> list[torch.Tensor]:
    return [tensor.expand(count, *tensor.shape[1:]) for tensor in ordered(condition)]


@contextmanager
def precision(device: torch.device) -> Iterator[None]:
    """Passes in bfloat16 on a GPU, as their script does."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
        yield
