"""The file that holds a time conditioning, beside the stock weights of its model."""

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from torch import nn

CONDITIONING_NAME = "twinflow_time_conditioning.safetensors"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def save_conditioning(conditioning: nn.Module, directory: str | Path) -> None:
    """Write a time conditioning into a directory, which is created if it does not exist."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in conditioning.state_dict().items()}
    save_file(tensors, Path(directory) / CONDITIONING_NAME, metadata={"format": "pt"})


def find_conditioning(name_or_path: str | Path, *, subfolder: str | None = None, **options: Any) -> Path:
    """Find the file in the folder of a model, or download it.

    Args:
        name_or_path: local directory or Hub repository.
        subfolder: folder of the model in it.
        options: as `from_pretrained` takes them; only those about the Hub are used.

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
        "again, or load it with its stock class, without the time conditioning."
    )
