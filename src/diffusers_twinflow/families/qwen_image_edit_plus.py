import torch
from diffusers import QwenImageEditPlusPipeline

from .packing import pad_tokens
from .qwen_image_edit import QwenImageEditFamily


class QwenImageEditPlusFamily(QwenImageEditFamily):
    """Qwen-Image-Edit of 2509 and later, with one reference image, which its prompt encoder sees at a smaller size."""

    name = "qwen_image_edit_plus"
    pipeline_class = QwenImageEditPlusPipeline
    encoder_area = 384 * 384

    def encode_with_images(self, pipeline, prompts, images, length):
        """One sample at a time: the pipeline would put every image into every prompt."""
        encoded = [
            pad_tokens(*pipeline.encode_prompt([prompt], image=[image]), length)
            for prompt, image in zip(prompts, images)
        ]
        prompt_embeds, masks = zip(*encoded)
        return torch.cat(prompt_embeds), torch.cat(masks)
