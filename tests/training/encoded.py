"""Latents and conditions in memory for the tiny Stable Diffusion 3 transformer."""

from collections.abc import Iterator

import torch

from tests.tiny import sd3_condition

BATCH = 4
LATENT_SHAPE = (4, 8, 8)


def samples(count: int = 2 * BATCH) -> list[dict]:
    """Samples without a batch dimension."""
    latents = torch.randn(count, *LATENT_SHAPE, generator=torch.Generator().manual_seed(5))
    condition = sd3_condition(count)
    return [
        {"latents": latents[i], "condition": {name: tensor[i] for name, tensor in condition.items()}}
        for i in range(count)
    ]


class InOrder:
    """The same samples as batches that can only be iterated over."""

    def __init__(self, count: int = 2 * BATCH) -> None:
        self.samples = samples(count)

    def __iter__(self) -> Iterator[dict]:
        for first in range(0, len(self.samples), BATCH):
            rows = self.samples[first : first + BATCH]
            names = rows[0]["condition"]
            yield {
                "latents": torch.stack([row["latents"] for row in rows]),
                "condition": {name: torch.stack([row["condition"][name] for row in rows]) for name in names},
            }
