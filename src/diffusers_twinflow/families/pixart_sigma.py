from collections.abc import Callable
from typing import Any

import torch
from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import is_bs4_available, is_ftfy_available

from ..conditions import Condition
from ..models import twinflow_class_of
from .diffusion import DiffusionFamily

WHOLE_PICTURE = {"resolution": None, "aspect_ratio": None}


class PixArtSigmaFamily(DiffusionFamily):
    """PixArt-Sigma. The transformer predicts the noise, and a variance that sampling does not use.

    The stock pipeline and transformer cannot load LoRAs. Only the TwinFlow class can.
    """

    name = "pixart_sigma"
    pipeline_class = PixArtSigmaPipeline
    transformer_class = twinflow_class_of(PixArtTransformer2DModel)
    lora_target_modules = [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
        "adaln_single.linear",
    ]
    max_sequence_length = 300
    saves_lora_by_pipeline = False

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        prompt_embeds, mask, _, _ = pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length or self.max_sequence_length,
            clean_caption=is_bs4_available() and is_ftfy_available(),
        )
        return {"prompt_embeds": prompt_embeds, "prompt_attention_mask": mask}

    def size_options(self, resolution: int) -> dict[str, Any]:
        return super().size_options(resolution) | {"use_resolution_binning": False}

    def predict(
        self, model: Callable[..., Any], sample: torch.Tensor, times: dict[str, torch.Tensor], condition: Condition
    ) -> torch.Tensor:
        output = model(
            sample,
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_attention_mask=condition["prompt_attention_mask"],
            added_cond_kwargs=WHOLE_PICTURE,
            return_dict=False,
            **times,
        )[0]
        return output[:, : sample.shape[1]]
