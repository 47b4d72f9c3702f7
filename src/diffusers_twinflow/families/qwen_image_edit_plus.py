import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from .qwen_image_edit import QwenImageEditFamily


class QwenImageEditPlusFamily(QwenImageEditFamily):
    """Qwen-Image-Edit 2509 and later, with one reference image. The prompt encoder sees it at a smaller size."""

    name = "qwen_image_edit_plus"
    pipeline_class = QwenImageEditPlusPipeline
    encoder_area = 384 * 384

    def encode_with_images(
        self, pipeline: DiffusionPipeline, prompts: list[str], images: list[Image.Image], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode one sample at a time, because the pipeline would put every image into every prompt."""
        encoded = [
            super(QwenImageEditPlusFamily, self).encode_with_images(pipeline, [prompt], [image], length)
            for prompt, image in zip(prompts, images)
        ]
        prompt_embeds, masks = zip(*encoded)
        return torch.cat(prompt_embeds), torch.cat(masks)
