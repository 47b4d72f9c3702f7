"""Distill the base with MeanFlow: the loss and the sampler of a checkout of the repository zhuyu-cs/MeanFlow.

Their loss takes class labels. Here a label is an index in a table of encoded captions, whose last row is the empty prompt. The
base gets a second embedding, of the time interval, that starts at zero. As their repository advises for pretrained models,
training begins without guidance. For this base, the learning rate and its schedule are changed.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.embeddings import TimestepEmbedding
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .authors import precision
from .data import EMPTY_SHARE, Encoded
from .drawing import Condition, Sample
from .timed import Clock, Usage
from .training import BASE_LEARNING_RATE

OPTIONS = {
    "path_type": "linear",
    "weighting": "adaptive",
    "time_sampler": "logit_normal",
    "time_mu": -0.4,
    "time_sigma": 1.0,
    "ratio_r_not_equal_t": 0.25,
    "adaptive_p": 1.0,
    "label_dropout_prob": 0.1,
}
"""Their settings for the model whose size is closest to this base, SiT-B/2, with `GUIDED`."""
GUIDED = {"cfg_omega": 1.0, "cfg_kappa": 0.5, "cfg_min_t": 0.0, "cfg_max_t": 1.0}
UNGUIDED = {"cfg_min_t": 2.0}
"""No time is above it, so guidance is never applied."""
UNGUIDED_SHARE = 0.15
ADAM = {"betas": (0.9, 0.95), "weight_decay": 0.0, "eps": 1e-8}
MAX_GRAD_NORM = 1.0


class TimeAndInterval(nn.Module):
    """Embeds the time as the base does, and adds an embedding of the interval, which is zero at first.

    Args:
        base: time embedding of the base.
        width: width of the transformer.
    """

    def __init__(self, base: nn.Module, width: int):
        super().__init__()
        self.base = base
        self.interval = TimestepEmbedding(in_channels=256, time_embed_dim=width)
        nn.init.zeros_(self.interval.linear_2.weight)
        nn.init.zeros_(self.interval.linear_2.bias)

    def forward(self, times: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Embed times, shape [N, 2]: the time and the interval, both times 1000."""
        time, interval = times.unbind(1)
        return self.base(time, pooled) + self.interval(self.base.time_proj(interval).to(pooled.dtype))


class IntervalTransformer(nn.Module):
    """The base as their loss calls a model: `model(z, r, t, y)`.

    Attributes:
        table: encoded captions by name; `y` are places in it.
        num_classes: place of the empty prompt.
    """

    def __init__(self, transformer: SD3Transformer2DModel):
        super().__init__()
        transformer.time_text_embed = TimeAndInterval(transformer.time_text_embed, transformer.inner_dim)
        self.transformer = transformer
        self.table: Condition = {}
        self.num_classes = 0

    @property
    def module(self) -> "IntervalTransformer":
        """Their loss looks for the model in a wrapper for several processes."""
        return self

    def set_table(self, table: Condition) -> None:
        self.table, self.num_classes = table, len(next(iter(table.values()))) - 1

    def forward(self, z: torch.Tensor, r: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.transformer(
            hidden_states=z,
            timestep=torch.stack([t, t - r], dim=1) * 1000,
            encoder_hidden_states=self.table["prompt_embeds"][y],
            pooled_projections=self.table["pooled_prompt_embeds"][y],
            return_dict=False,
        )[0]


class MeanFlowTraining:
    """
    Args:
        checkout: folder of their repository.
        base: folder of the base.
    """

    def __init__(self, checkout: Path, base: Path, device: torch.device, learning_rate: float = BASE_LEARNING_RATE):
        self.device, self.learning_rate = device, learning_rate
        loss_class = load_file_of(checkout, "loss.py").SILoss
        self.unguided, self.guided = loss_class(**OPTIONS, **UNGUIDED), loss_class(**OPTIONS, **GUIDED)
        self.sampler = load_file_of(checkout, "meanflow_sampler.py").meanflow_sampler
        transformer = SD3Transformer2DModel.from_pretrained(base, subfolder="transformer")
        self.model = IntervalTransformer(transformer).to(device).train().requires_grad_(True)
        self.parameters = list(self.model.parameters())
        self.micro_batches = 1
        """More if a step does not fit into memory."""

    def settings(self, samples: Encoded) -> dict[str, object]:
        return {
            **OPTIONS,
            **GUIDED,
            **ADAM,
            "unguided_share": UNGUIDED_SHARE,
            "learning_rate": self.learning_rate,
            "their_learning_rate": 1e-4,
            "max_grad_norm": MAX_GRAD_NORM,
            "train_batch_size": samples.batch_size,
            "their_batch_size": 256,
            "micro_batches": self.micro_batches,
            "trained_parameters": sum(parameter.numel() for parameter in self.parameters),
        }

    def train(self, samples: Encoded, clock: Clock) -> Usage:
        if OPTIONS["label_dropout_prob"] != EMPTY_SHARE:
            raise ValueError("their loss must drop as many captions as the batches of the other methods.")
        self.model.set_table(samples.table)
        optimizer = torch.optim.Adam(self.parameters, lr=self.learning_rate, **ADAM)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, clock.factor)
        for places, captions in samples.places():
            loss_of = self.unguided if clock.seconds < UNGUIDED_SHARE * clock.limit else self.guided
            try:
                latents = samples.latents[places.to(self.device)]
                self.backward(loss_of, latents, captions.to(self.device))
            except torch.OutOfMemoryError:
                if self.micro_batches >= samples.batch_size:
                    raise
                self.micro_batches *= 2
                optimizer.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                continue
            nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
            clock.finish_step(optimizer, schedule)
            if clock.is_over:
                return clock.usage()
        raise RuntimeError("the samples ended before the clock.")

    def backward(self, loss_of: Callable, latents: torch.Tensor, captions: torch.Tensor) -> None:
        """Accumulate the gradients of a batch. Their loss is a mean over samples, so micro-batches give the same."""
        for part, labels in zip(latents.chunk(self.micro_batches), captions.chunk(self.micro_batches)):
            # the fused attention kernels have no forward-mode derivatives
            with sdpa_kernel(SDPBackend.MATH), precision(self.device):
                loss, _ = loss_of(self.model, part, {"y": labels})
            (loss.sum() / len(latents)).backward()

    def sample(self) -> Sample:
        """Their sampler. Guidance is in the weights."""
        self.model.eval()

        def draw(noise: torch.Tensor, condition: Condition, steps: int) -> torch.Tensor:
            self.model.set_table(condition)
            return self.sampler(self.model, noise, torch.arange(len(noise), device=noise.device), num_steps=steps)

        return draw

    def state(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state)


def load_file_of(checkout: Path, name: str) -> ModuleType:
    """Import a file of a checkout whose name is too common to put its folder on the path."""
    path = checkout / name
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: give a checkout of the repository zhuyu-cs/MeanFlow.")
    spec = importlib.util.spec_from_file_location(f"mean_flow_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
