"""Save and find the file of a time conditioning, which lies next to the stock weights of its model."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from torch import nn

Value = TypeVar("Value")

CONDITIONING_NAME = "twinflow_time_conditioning.safetensors"
UNFOLDED = "unfolded."
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def save_conditioning(
    conditioning: nn.Module,
    directory: str | os.PathLike[str],
    unfolded: Mapping[str, torch.Tensor] = MappingProxyType({}),
    *,
    name: str = CONDITIONING_NAME,
) -> None:
    """Save a time conditioning in a directory, which is created if it does not exist.

    Args:
        conditioning: the time conditioning.
        directory: folder of the model.
        unfolded: original weights, by layer name, of the stock layers into whose saved weights the target time is
            folded.
        name: name of the file.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    tensors = dict(conditioning.state_dict())
    tensors |= {f"{UNFOLDED}{layer}.weight": weight for layer, weight in unfolded.items()}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(tensors, Path(directory) / name, metadata={"format": "pt"})


def split_unfolded(
    tensors: Mapping[str, Value],
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Split the tensors of a file, or their shapes, into the time conditioning and the unfolded weights.

    Returns:
        Two dictionaries by the tensors' names in the time conditioning and in the model.
    """
    conditioning = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNFOLDED)}
    unfolded = {name.removeprefix(UNFOLDED): t for name, t in tensors.items() if name.startswith(UNFOLDED)}
    return conditioning, unfolded


def find_conditioning(name_or_path: str | os.PathLike[str], *, subfolder: str | None = None, **options: Any) -> Path:
    """Find the file in the folder of a model, or download it.

    Args:
        name_or_path: local directory or Hub repository.
        subfolder: folder of the model inside it.
        options: options of `from_pretrained`. Only those in `HUB_OPTIONS` are used.

    Returns:
        Path of the local file.

    Raises:
        FileNotFoundError: if the folder has no such file.
    """
    if Path(name_or_path).is_dir():
        path = Path(name_or_path) / (subfolder or "") / CONDITIONING_NAME
        if path.is_file():
            return path
        raise FileNotFoundError(_missing(path.parent))
    hub_options = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    try:
        return Path(hf_hub_download(str(name_or_path), CONDITIONING_NAME, subfolder=subfolder, **hub_options))
    except EntryNotFoundError as error:
        raise FileNotFoundError(_missing("/".join(filter(None, (str(name_or_path), subfolder))))) from error


def _missing(folder: str | Path) -> str:
    return (
        f"The model in '{folder}' was saved with a time conditioning, but {CONDITIONING_NAME} is missing. Save the model "
        "again, or load it with its stock class, which needs no time conditioning."
    )
