"""Image and CLIP models of transformers that metrics use."""

from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

from ..configuration import TwinFlowConfigError


class ImageFeatures(torch.nn.Module):
    """Computes one feature vector per image with an image model of transformers.

    Args:
        name_or_path: folder or Hub id of the model and its image processor.
        load_options: further arguments of `from_pretrained`, such as `local_files_only`.
    """

    def __init__(self, name_or_path: str, **load_options: Any) -> None:
        super().__init__()
        self.processor = AutoImageProcessor.from_pretrained(name_or_path, **load_options)
        self.model = AutoModel.from_pretrained(name_or_path, **load_options).eval()

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of shape [N, D] for uint8 images of shape [N, 3, H, W]."""
        inputs = self.processor(images=list(images.cpu()), return_tensors="pt")["pixel_values"].to(images.device)
        encode = getattr(self.model, "get_image_features", self.model)
        return as_tensor(encode(inputs))


class PromptModel(torch.nn.Module):
    """A CLIP model of transformers with the interface that torchmetrics needs.

    Attributes:
        processor: prepares images and prompts. Prompts that are too long are cut and keep their end token.
    """

    model: Any

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.config, self.processor = model.eval(), model.config, PromptProcessor(processor)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return as_tensor(self.model.get_image_features(pixel_values))

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return as_tensor(self.model.get_text_features(input_ids, attention_mask))

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of length 1, shape [N, D], for uint8 images of shape [N, 3, H, W]."""
        inputs = self.processor(images=list(images.cpu()), return_tensors="pt")["pixel_values"].to(images.device)
        return torch.nn.functional.normalize(self.get_image_features(inputs), dim=-1)

    @classmethod
    def load(cls, name_or_path: str, **load_options: Any) -> "PromptModel":
        """Load the model and its processor.

        Args:
            name_or_path: folder or Hub id of a CLIP model.
            load_options: further arguments of `from_pretrained`, such as `local_files_only`.
        """
        model = AutoModel.from_pretrained(name_or_path, **load_options)
        return cls(model, AutoProcessor.from_pretrained(name_or_path, **load_options))


class PromptProcessor:
    """Calls a CLIP processor, and lets its tokenizer cut prompts that are too long.

    torchmetrics would cut them after the tokenizer, which removes the end token that CLIP pools at.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, **arguments: Any) -> Any:
        return self.processor(**arguments, **({"truncation": True} if "text" in arguments else {}))


def as_tensor(output: Any) -> torch.Tensor:
    """Return the pooled features of a model's output, which for some models is the output itself."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def load_model(load: Any, name: str, option: str, kind: str) -> Any:
    """Load a model for a metric.

    Args:
        load: function that loads the model of a name.
        name: folder or Hub id.
        option: option that names the model, for the error.
        kind: what the model must be, for the error, such as "CLIP model".

    Raises:
        TwinFlowConfigError: if it cannot be loaded.
    """
    try:
        return load(name)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # files from others can raise any error
        reason = str(error).strip().split("\n")[0][:300]
        raise TwinFlowConfigError(
            f"{option}='{name}' cannot be loaded ({reason}). Pass the folder or the Hub id of a {kind}."
        ) from error
