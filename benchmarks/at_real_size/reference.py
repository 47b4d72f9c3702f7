"""The training step of the TwinFlow authors, from a checkout of their repository, on the same model and batch.

Their class takes the model as a callable. It gets the transformer with the adapters `default` and `old`, and the options of
their recipe for a LoRA on Stable Diffusion 3.5 (`src/configs/sd_task/sd35_lora_2order.yaml`).
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig, get_peft_model
from torch import nn

from .models import RealModel

SMALLEST_BATCH = 4
OPTIONS = {
    "consistc_ratio": 1.0,
    "enhanced_ratio": 0.8,
    "ema_decay_rate": 0.99,
    "enhanced_range": [0.0, 1.0],
    "time_dist_ctrl": [1.0, 1.0, 1.0],
    "estimate_order": 2,
    "loss_func_type": {"type": "barron_reweighting", "alpha": 1.0},
    "dist_match_cof": 0.5,
}


def load_method_class(checkout: str | Path, name: str = "TwinFlow_LoRA") -> type:
    """Return a class of `METHODES` of `src/methodes` in the checkout: "TwinFlow_LoRA", or "TwinFlow" for all weights.

    Raises:
        FileNotFoundError: if the folder is not a checkout of their repository.
    """
    source = Path(checkout) / "src"
    if not (source / "methodes" / "twinflow" / "twinflow_lora.py").is_file():
        raise FileNotFoundError(
            f"--reference_dir={checkout} has no src/methodes/twinflow/twinflow_lora.py: give a checkout of the TwinFlow "
            "authors' repository, of which src/methodes and src/services are enough."
        )
    sys.path.insert(0, str(source))
    try:
        return importlib.import_module("methodes").METHODES[name]
    finally:
        sys.path.remove(str(source))


class ReferenceModel(nn.Module):
    """The interface of their wrapper: it is called as `model(x_t, t=, c=)`, and `model.transformer.module` has the adapters."""

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.module = transformer

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, c: list[torch.Tensor]) -> torch.Tensor:
        prompt_embeds, pooled_prompt_embeds = c
        return self.transformer.module(
            hidden_states=x_t,
            timestep=t * 1000,
            encoder_hidden_states=prompt_embeds,
            pooled_projections=pooled_prompt_embeds,
            return_dict=False,
        )[0]


class ReferenceTraining:
    """
    Args:
        transformer: the frozen base, in bfloat16 or, as their script loads it, in float32.
        checkout: folder of their repository.
    """

    def __init__(
        self,
        model: RealModel,
        transformer: ModelMixin,
        latents: torch.Tensor,
        *,
        checkout: str,
        rank: int,
        target_modules: list[str],
        gradient_checkpointing: bool,
    ):
        if len(latents) < SMALLEST_BATCH:
            raise ValueError(
                f"the authors' step needs a batch of {SMALLEST_BATCH} or more, and this is {len(latents)}."
            )
        self.method = load_method_class(checkout)(**OPTIONS)
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        lora = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=target_modules)
        adapted = get_peft_model(transformer, lora)
        adapted.add_adapter("old", lora)
        adapted.set_adapter("default")
        self.model = ReferenceModel(adapted).train()
        self.parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, foreach=True)
        self.latents = latents.float()
        condition = model.condition(len(latents), latents.device, torch.float32)
        empty = model.condition(len(latents), latents.device, torch.float32)
        self.condition, self.empty = list(condition.values()), list(empty.values())

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)

    def step(self) -> None:
        device = self.latents.device
        with random_state_of(device), torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            loss = self.method.training_step(
                self.model, self.latents.clone(), c=self.condition, e=self.empty, step=0, v=None
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Release the model."""
        del self.model, self.method, self.optimizer


@contextmanager
def random_state_of(device: torch.device) -> Iterator[None]:
    """Let their step save and restore the random state of the CPU, if there is no GPU."""
    if device.type == "cuda":
        yield
        return
    cuda = SimpleNamespace(get=torch.cuda.get_rng_state, set=torch.cuda.set_rng_state)
    torch.cuda.get_rng_state, torch.cuda.set_rng_state = torch.get_rng_state, torch.set_rng_state
    try:
        yield
    finally:
        torch.cuda.get_rng_state, torch.cuda.set_rng_state = cuda.get, cuda.set
