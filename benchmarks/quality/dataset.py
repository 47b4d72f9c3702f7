"""The prepared dataset as tensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset


@dataclass
class Split:
    """
    Attributes:
        images: shape [N, 3, H, W], in [0, 1].
        texts, group_texts: the two captions of each image.
        groups, styles: class of each image, shape [N].
        num_groups, num_styles: how many classes there are.
    """

    images: torch.Tensor
    texts: list[str]
    group_texts: list[str]
    groups: torch.Tensor
    styles: torch.Tensor
    num_groups: int
    num_styles: int

    def __len__(self) -> int:
        return len(self.texts)


def load_split(data_dir: str | Path, split: str) -> Split:
    if not (Path(data_dir) / f"{split}.parquet").is_file():
        raise FileNotFoundError(
            f"no {split}.parquet in data_dir={data_dir}: make it with benchmarks/quality/prepare_data.py, "
            "whose --help gives the commands."
        )
    files = {name: str(Path(data_dir) / f"{name}.parquet") for name in ("train", "test")}
    data = load_dataset("parquet", data_files=files, split=split)
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in data["image"]])
    return Split(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
        texts=list(data["text"]),
        group_texts=list(data["group_text"]),
        groups=torch.tensor(data["group"]),
        styles=torch.tensor(data["style"]),
        num_groups=data.features["group"].num_classes,
        num_styles=data.features["style"].num_classes,
    )
