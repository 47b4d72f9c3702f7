"""Draw the comparison image: one row per prompt and one column per sampler, with the same noise in each row."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

CELL_INCHES = 1.1


def samples_of_digit(images: torch.Tensor, digit: int, number: int) -> np.ndarray:
    """Return the first samples of a digit, side by side. The samples show the digits 0 to 9 in turn."""
    cell = torch.cat(list(images[digit::10][:number]), dim=2)
    return cell.permute(1, 2, 0).clamp(0, 1).numpy()


def save_comparison(
    columns: dict[str, torch.Tensor], prompts: list[str], path: str | Path, samples_per_cell: int = 3
) -> None:
    """Draw and save the comparison image.

    Args:
        columns: samples by header, shape `[N, 3, H, W]` in [0, 1]. They show the digits 0 to 9 in turn, from the same
            noise.
        prompts: prompts of the ten digits.
    """
    width, height = CELL_INCHES * samples_per_cell * len(columns) + 1.8, CELL_INCHES * len(prompts) + 0.6
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    grid = figure.subplots(len(prompts), len(columns), squeeze=False)
    for row, prompt in enumerate(prompts):
        for axes, (header, images) in zip(grid[row], columns.items()):
            axes.imshow(samples_of_digit(images, row, samples_per_cell), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(header, fontsize=15)
        grid[row, 0].set_ylabel(prompt, fontsize=12, rotation=0, ha="right", va="center", labelpad=8)
    figure.savefig(path)
