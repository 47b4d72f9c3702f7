"""The Fréchet distance between generated and reference images."""

from collections.abc import Sequence

import torch

from ..prompts import EvaluationPrompt
from .base import TorchMetric

INCEPTION_FEATURES = 2048


class FrechetDistance(TorchMetric):
    """Fréchet distance of torchmetrics between the features of generated images and of reference images.

    Args:
        features: module that returns features of shape [N, D] for uint8 images of shape [N, 3, H, W]. `None` means the
            Inception network of the usual FID.
        name: name of the score.
        is_shared: whether the images are spread over all processes. If not, this process has all images.
    """

    def __init__(self, features: torch.nn.Module | None = None, *, name: str = "fid", is_shared: bool = False) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(
            INCEPTION_FEATURES if features is None else features,
            reset_real_features=False,
            sync_on_compute=is_shared,
        )
        super().__init__(name, metric)

    @torch.no_grad()
    def add_reference(self, images: torch.Tensor) -> None:
        """Add reference images, uint8 of shape [N, 3, H, W]. `reset` does not remove them."""
        self.metric.update(images, real=True)

    @torch.no_grad()
    def update(self, images: torch.Tensor, prompts: Sequence[EvaluationPrompt]) -> None:
        self.metric.update(images, real=False)
