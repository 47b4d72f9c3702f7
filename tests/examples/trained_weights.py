"""What a run trained."""

from pathlib import Path

import torch
from safetensors.torch import load_file


def trained(directory: Path, step: int) -> dict[str, torch.Tensor]:
    """The trained weights of a checkpoint."""
    return load_file(directory / f"checkpoint-{step}" / "trained_weights.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
