from collections.abc import Callable
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition
from ..models import twinflow_class_of
from .diffusion import DiffusionFamily
from .prompts import check_clip_length

UNET_LORA_TARGETS = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_in",
    "proj_out",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
]


class StableDiffusionFamily(DiffusionFamily):
    """Stable Diffusion 1.x and 2.x. A UNet with one CLIP encoder predicts the noise or v."""

    name = "stable_diffusion"
    pipeline_class = StableDiffusionPipeline
    component_name = "unet"
    transformer_class = twinflow_class_of(UNet2DConditionModel)
    lora_target_modules = UNET_LORA_TARGETS
    max_sequence_length = 77

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        check_clip_length(pipeline.tokenizer, max_sequence_length)
        prompt_embeds, _ = pipeline.encode_prompt(
            prompts, device=pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": prompt_embeds}

    def predict(
        self, model: Callable[..., Any], sample: torch.Tensor, times: dict[str, torch.Tensor], condition: Condition
    ) -> torch.Tensor:
        return model(sample=sample, encoder_hidden_states=condition["prompt_embeds"], return_dict=False, **times)[0]
