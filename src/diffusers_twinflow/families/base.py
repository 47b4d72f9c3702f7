"""What the rest of the package needs to know of a base model; one subclass a model, and nothing about the loss."""

from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline

from ..models import TwinFlowTransformerMixin
from ..training.objective import Condition, VelocityFunction

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


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

    def load(self, name_or_path: str, **options) -> DiffusionPipeline:
        """The stock pipeline, as its `from_pretrained` loads it; components that it was saved without stay `None`.

        Args:
            options: as `DiffusionPipeline.from_pretrained` takes them; without a dtype every component is float32,
                where diffusers alone would leave text encoders in the dtype they were saved in.
        """
        hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
        index = self.pipeline_class.load_config(name_or_path, **hub_options)
        absent = {name: None for name, component in index.items() if component == [None, None]}
        if not {"dtype", "torch_dtype"} & options.keys():
            options["dtype"] = torch.float32
        return self.pipeline_class.from_pretrained(name_or_path, **(absent | options))

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
