"""Tiny models that score images, saved to a folder, and plug-ins for an evaluation."""

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from tests import tiny

SIZE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
IMAGE = {"image_size": 16, "patch_size": 8}
CLASSES = ("dog", "cat")
PLUG_INS = """
import torch

class Colours(torch.nn.Module):
    num_features = 3
    def forward(self, images):
        return images.float().mean((2, 3))

def features():
    return Colours()

def for_floats():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))


def no_features():
    return "no module"

def brightness(images, prompts):
    assert images.dtype == torch.float32 and 0 <= images.min() and images.max() <= 1 and len(images) == len(prompts)
    return images.mean((1, 2, 3))

def read(image):
    return "HEL O"
"""


def save_image_model(directory) -> None:
    torch.manual_seed(0)
    ViTModel(ViTConfig(**SIZE, **IMAGE)).save_pretrained(directory)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(directory)


def save_clip(directory) -> None:
    torch.manual_seed(0)
    tokenizer = tiny.clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(text_config={**SIZE, **text}, vision_config={**SIZE, **IMAGE}, projection_dim=8)
    CLIPModel(config).save_pretrained(directory)
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(directory)


def save_detector(directory) -> None:
    torch.manual_seed(0)
    names = dict(enumerate(CLASSES))
    image = {"image_size": [16, 16], "patch_size": 8, "num_detection_tokens": 3}
    config = YolosConfig(**SIZE, **image, id2label=names, label2id={name: i for i, name in names.items()})
    YolosForObjectDetection(config).save_pretrained(directory)
    YolosImageProcessor(size={"height": 16, "width": 16}).save_pretrained(directory)
