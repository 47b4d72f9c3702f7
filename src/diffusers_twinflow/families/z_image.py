from collections.abc import Callable
from typing import Any

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch.nn.utils.rnn import pad_sequence

from ..conditions import ON_HOST, Condition, VelocityFunction, read
from ..models import twinflow_class_of
from .base import Family
from .prompts import pad_tokens

LENGTHS = f"{ON_HOST}lengths"
"""Name of the condition with the number of tokens of each prompt."""


class ZImageFamily(Family):
    """Z-Image. Times are in 0..1 with 1 = data. It predicts data minus noise and takes lists of samples and prompts."""

    name = "z_image"
    usual_base = "Tongyi-MAI/Z-Image-Turbo"
    pipeline_class = ZImagePipeline
    transformer_class = twinflow_class_of(ZImageTransformer2DModel)
    lora_target_modules = [
        "attention.to_q",
        "attention.to_k",
        "attention.to_v",
        "attention.to_out.0",
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
        "noise_refiner.*.adaLN_modulation.0",
        "layers.*.adaLN_modulation.0",
    ]
    max_sequence_length = 512
    timestep_argument = "t"
    reads_conditions = True

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        length = max_sequence_length or self.max_sequence_length
        embeds, _ = pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=length
        )
        prompt_embeds, _ = pad_tokens(pad_sequence(embeds, batch_first=True), None, length)
        return {"prompt_embeds": prompt_embeds, LENGTHS: torch.tensor([min(len(each), length) for each in embeds])}

    def condition_identity(self) -> dict[str, Any]:
        return {"lengths": LENGTHS}

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        return 1 - t

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            prompt_embeds = condition["prompt_embeds"]
            is_old = LENGTHS not in condition  # encoded by an earlier version
            lengths = read(condition["prompt_embeds_mask"].sum(1) if is_old else condition[LENGTHS])
            samples = model(
                x=list(x_t.to(prompt_embeds.dtype).unsqueeze(2)),
                cap_feats=[embeds[:length] for embeds, length in zip(prompt_embeds, lengths)],
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return -torch.stack(samples).squeeze(2)

        return velocity
