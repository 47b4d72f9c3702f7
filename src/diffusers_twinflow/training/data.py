"""Captioned images for training, read with `datasets`."""

import numpy as np
import torch
from datasets import Dataset, load_dataset
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from ..configuration import TwinFlowConfigError
from .objective import Condition


def load_captioned_images(
    name: str, *, config_name: str | None, split: str, image_column: str, caption_column: str, cache_dir: str | None
) -> Dataset:
    """Load a Hub dataset or a local folder, and check its columns.

    Raises:
        TwinFlowConfigError: where the dataset or a column is not there.
    """
    try:
        dataset = load_dataset(name, config_name, split=split, cache_dir=cache_dir)
    except (FileNotFoundError, ValueError) as error:
        raise TwinFlowConfigError(
            f"dataset_name='{name}' cannot be read ({error}): give a Hub dataset or a folder of images or parquet."
        ) from error
    for option, column in (("image_column", image_column), ("caption_column", caption_column)):
        if column not in dataset.column_names:
            raise TwinFlowConfigError(
                f"{option}='{column}' is no column of '{name}': choose one of {', '.join(dataset.column_names)}."
            )
    return dataset


class CaptionedImages(TorchDataset):
    """Pixels in [-1, 1] of shape [3, resolution, resolution], with caption and index."""

    def __init__(
        self, dataset: Dataset, image_column: str, caption_column: str, resolution: int, random_flip: bool = False
    ):
        self.dataset, self.image_column, self.captions = dataset, image_column, dataset[caption_column]
        self.resolution, self.random_flip = resolution, random_flip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        image = self.dataset[index][self.image_column]
        return {"pixels": self._pixels(image), "caption": self.captions[index], "index": index}

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("RGB")
        if image.size != (self.resolution, self.resolution):
            image = _resize_and_crop(image, self.resolution)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
        return pixels.flip(-1) if self.random_flip and torch.rand(()) < 0.5 else pixels


class CachedLatents(TorchDataset):
    """Latents of shape [N, ...] encoded before training, with caption and index."""

    def __init__(self, latents: torch.Tensor, captions: list[str]):
        self.latents, self.captions = latents, captions

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict:
        return {"latents": self.latents[index], "caption": self.captions[index], "index": index}


@torch.no_grad()
def cache_latents(images: CaptionedImages, encode, batch_size: int, show_progress: bool = True) -> CachedLatents:
    """Encode every image once.

    Args:
        encode: takes pixels of shape [B, 3, H, W] and returns latents.
    """
    loader = torch.utils.data.DataLoader(images, batch_size=batch_size)
    batches = tqdm(loader, desc="Encoding images", disable=not show_progress)
    return CachedLatents(
        torch.cat([encode(batch["pixels"]).float().cpu() for batch in batches]), list(images.captions)
    )


class PromptEmbeddings:
    """Conditions of prompts, each encoded once and kept.

    Args:
        encode: takes a list of prompts and returns their condition.
        keep: whether to keep what was encoded; false encodes every batch anew.
    """

    def __init__(self, encode, keep: bool):
        self.encode, self.keep = encode, keep
        self.kept: dict[str, Condition] = {}

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Condition:
        if not self.keep:
            return self.encode(prompts)
        for prompt in prompts:
            if prompt not in self.kept:
                self.kept[prompt] = self.encode([prompt])
        conditions = [self.kept[prompt] for prompt in prompts]
        return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}


def drop_prompts(prompts: list[str], positions: list[int], proportion: float, seed: int) -> list[str]:
    """Replace a proportion of the prompts by the empty one, each decided by its position in the run."""
    if proportion == 0:
        return prompts
    draws = [np.random.default_rng((seed, position, 1)).random() for position in positions]
    return ["" if draw < proportion else prompt for prompt, draw in zip(prompts, draws)]


def _resize_and_crop(image: Image.Image, resolution: int) -> Image.Image:
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))
