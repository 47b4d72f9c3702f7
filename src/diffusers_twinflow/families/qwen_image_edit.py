from collections.abc import Callable
from typing import Any

import torch
from diffusers import QwenImageEditPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as stock
from PIL import Image

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from .base import call_pipeline
from .encoding import as_pictures
from .prompts import pad_tokens
from .qwen_image import QwenImageFamily

REFERENCE_AREA = 1024 * 1024


class QwenImageEditFamily(QwenImageFamily):
    """Qwen-Image-Edit. The prompt encoder sees a reference image, and its latents follow the tokens of the image.

    Attributes:
        encoder_area: number of pixels to which the reference image is resized for the prompt encoder.
    """

    name = "qwen_image_edit"
    pipeline_class: type[DiffusionPipeline] = QwenImageEditPipeline
    takes_reference_image = True
    task = "image-to-image"
    encoder_area = REFERENCE_AREA

    def encode_prompts(
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        max_sequence_length: int | None = None,
        reference_images: torch.Tensor | None = None,
    ) -> Condition:
        """Encode prompts together with their reference images, and add the images' latents, shape [B, C, h, w].

        A prompt has `max_sequence_length` tokens plus the tokens of the image.

        Raises:
            TwinFlowConfigError: if there are no reference images.
        """
        if reference_images is None:
            raise TwinFlowConfigError(
                f"The family {self.name} edits images, so encode_prompts needs reference_images. Pass one per prompt."
            )
        pictures, processor = as_pictures(reference_images), pipeline.image_processor
        width, height, _ = stock.calculate_dimensions(self.encoder_area, pictures[0].width / pictures[0].height)
        length = (max_sequence_length or self.max_sequence_length) + image_tokens(pipeline, height, width)
        resized = [processor.resize(picture, height, width) for picture in pictures]
        prompt_embeds, prompt_embeds_mask = self.encode_with_images(pipeline, prompts, resized, length)
        return {
            "prompt_embeds": prompt_embeds,
            "prompt_embeds_mask": prompt_embeds_mask,
            "reference_latents": self.encode_references(pipeline, pictures, prompt_embeds.device),
        }

    def encode_with_images(
        self, pipeline: DiffusionPipeline, prompts: list[str], images: list[Image.Image], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of prompts with their images, shape [B, length, D], and their mask."""
        embeds, mask = pipeline.encode_prompt(prompts, image=images)
        return pad_tokens(embeds, mask, length)

    def encode_references(
        self, pipeline: DiffusionPipeline, pictures: list[Image.Image], device: torch.device
    ) -> torch.Tensor:
        """Encode reference images of one size to latents without noise, shape [B, C, h, w]."""
        width, height, _ = stock.calculate_dimensions(REFERENCE_AREA, pictures[0].width / pictures[0].height)
        pixels = pipeline.image_processor.preprocess(pictures, height, width).to(device, pipeline.vae.dtype)
        return pipeline._encode_vae_image(pixels.unsqueeze(2), generator=None).squeeze(2)

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            dtype, reference = condition["prompt_embeds"].dtype, condition["reference_latents"]
            tokens = self.pack(x_t.to(dtype))
            sizes = [(1, x.shape[-2] // 2, x.shape[-1] // 2) for x in (x_t, reference)]
            predicted = model(
                hidden_states=torch.cat([tokens, self.pack(reference.to(dtype))], dim=1),
                encoder_hidden_states=condition["prompt_embeds"],
                encoder_hidden_states_mask=condition["prompt_embeds_mask"],
                img_shapes=[sizes] * len(x_t),
                return_dict=False,
                **self.times(t, r, sign),
            )[0]
            return self.unpack(predicted[:, : tokens.shape[1]], *x_t.shape[-2:])

        return velocity

    def draw(  # type: ignore[override]  # an edit needs its image
        self,
        pipeline: DiffusionPipeline,
        prompts: list[str],
        images_per_prompt: int = 1,
        *,
        image: Any,
        **call_options: Any,
    ) -> list[Image.Image]:
        """Edit `image` with one call per result, because the stock call mixes up the images of several prompts."""
        each = [prompt for prompt in prompts for _ in range(images_per_prompt)]
        return [call_pipeline(pipeline, image=image, prompt=prompt, **call_options).images[0] for prompt in each]


def image_tokens(pipeline: DiffusionPipeline, height: int, width: int) -> int:
    """Return the number of the prompt encoder's tokens for one image."""
    processor = pipeline.processor.image_processor
    return processor.get_number_of_image_patches(height, width, {}) // processor.merge_size**2
