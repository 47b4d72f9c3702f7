"""What the rest of the package needs to know of a base model; one subclass a model, and nothing about the loss."""

from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline

from ..models import TwinFlowTransformerMixin
from ..training.objective import Condition, VelocityFunction


class Family:
    """How one diffusers model is called, packed and scaled.

    Attributes:
        name: the name in configurations and model cards.
        pipeline_class: the stock pipeline.
        transformer_class: the `timestep_sign` aware transformer class.
        lora_target_modules: the linear layers that a LoRA adapts by default.
        max_sequence_length: default length of an encoded prompt, in tokens.
    """

    name: str
    pipeline_class: type[DiffusionPipeline]
    transformer_class: type[TwinFlowTransformerMixin]
    lora_target_modules: list[str]
    max_sequence_length: int

    def encode_prompts(
        self, pipeline: DiffusionPipeline, prompts: list[str], max_sequence_length: int | None
    ) -> Condition:
        """Everything the transformer is conditioned on, as tensors of batch `len(prompts)`."""
        raise NotImplementedError

    def encode_images(self, pipeline: DiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
        """Scaled latents of pixels in [-1, 1], shape [B, 3, H, W]."""
        raise NotImplementedError

    def decode_latents(self, pipeline: DiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1], shape [B, 3, H, W], of scaled latents."""
        raise NotImplementedError

    def velocity(self, transformer: Callable) -> VelocityFunction:
        """The transformer in canonical form: `(x_t, t, r, sign, condition) -> F`, F towards the noise.

        `t` and `r` are in [0, 1] with 1 = noise; `r = None` and `sign = None` call the stock model.
        """
        raise NotImplementedError
