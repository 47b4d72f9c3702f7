"""Find which weights a run trained."""

from pathlib import Path

import torch
from safetensors.torch import load_file


def trained(directory: Path, step: int) -> dict[str, torch.Tensor]:
    """The trained weights of a checkpoint."""
    return load_file(directory / f"checkpoint-{step}" / "trained_weights.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def teacher(directory: Path, step: int) -> dict:
    """The teacher of a checkpoint."""
    return torch.load(directory / f"checkpoint-{step}" / "custom_checkpoint_0.pkl", weights_only=False)


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], atol: float = 5e-5) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=2 * atol, atol=atol, msg=name, check_device=False)


def assert_same_training(found: Path, wanted: Path, step: int, atol: float = 5e-5) -> None:
    """Two runs have the same weights and the same teacher at a checkpoint."""
    assert_close(trained(found, step), trained(wanted, step), atol)
    a, b = (teacher(directory, step) for directory in (found, wanted))
    assert a["decay"] == b["decay"] > 0
    assert_close(a["weights"], b["weights"], atol)
