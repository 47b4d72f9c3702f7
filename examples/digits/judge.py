"""Train the judge of the digits demo: a small classifier trained only on real digits.

It measures two scores of a set of samples: the Frechet distance to the real train digits, in the features of its last
hidden layer, and the share of samples that show the digit of their prompt (agreement).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from prepare_data import DEFAULT_DATA_DIR, load_split
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

DEFAULT_JUDGE_PATH = "outputs/digits/judge.safetensors"


class DigitJudge(nn.Module):
    """A convolutional classifier of images `[N, 3, 32, 32]` in [0, 1]. It ignores color."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64), feature_size: int = 64):
        super().__init__()
        blocks = []
        for in_channels, out_channels in zip((1, *channels[:-1]), channels):
            blocks += [
                nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.convolutions = nn.Sequential(*blocks, nn.Flatten())
        self.hidden = nn.Linear(channels[-1] * 4 * 4, feature_size)
        self.dropout = nn.Dropout(0.25)
        self.classifier = nn.Linear(feature_size, 10)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        gray = images.mean(dim=1, keepdim=True)
        return F.relu(self.hidden(self.convolutions(2 * gray - 1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(self.features(images)))


def augment(images: torch.Tensor, generator: torch.Generator, padding_mode: str = "zeros") -> torch.Tensor:
    """Shift, rotate and scale each image slightly. `padding_mode` defines the pixels beyond the borders."""
    shift_x, shift_y, turn, scale = (2 * torch.rand(4, len(images), generator=generator) - 1).to(images.device)
    angle, zoom = turn * 0.2, 1 + scale * 0.1
    cosine, sine = zoom * torch.cos(angle), zoom * torch.sin(angle)
    matrices = torch.stack([cosine, -sine, shift_x * 0.1, sine, cosine, shift_y * 0.1], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding_mode, align_corners=False)


def train_judge(
    images: torch.Tensor, labels: torch.Tensor, *, epochs: int = 14, batch_size: int = 100, seed: int = 0
) -> DigitJudge:
    """Train a judge on real digits without changing the caller's random state."""
    generator = torch.Generator().manual_seed(seed)
    images = images.mean(dim=1, keepdim=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = DigitJudge().to(images.device)
        optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
        total_steps = epochs * -(-len(images) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=total_steps)
        progress = tqdm(total=total_steps, desc="Judge")
        for _ in range(epochs):
            for indices in torch.randperm(len(images), generator=generator).split(batch_size):
                loss = F.cross_entropy(judge(augment(images[indices], generator)), labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                progress.update()
        progress.close()
    return judge.eval().requires_grad_(False)


def save_judge(judge: DigitJudge, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(judge.state_dict(), str(path))


def load_judge(path: str | Path) -> DigitJudge:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There is no judge at {path}. Train it with `python examples/digits/judge.py --output {path}`."
        )
    judge = DigitJudge()
    judge.load_state_dict(load_file(str(path)))
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def extract_features(judge: DigitJudge, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Return features of shape `[N, 64]` for images `[N, 3, 32, 32]` in [0, 1]."""
    return torch.cat([judge.features(batch) for batch in images.split(batch_size)])


def agreement(judge: DigitJudge, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images, given by their features, that the judge classifies as `labels`."""
    return (judge.classifier(features).argmax(dim=1) == labels).double().mean().item()


def frechet_distance(features_a: torch.Tensor, features_b: torch.Tensor) -> float:
    """Compute the Frechet distance of Gaussians fitted to two sets of features `[N, D]`, in float64.

    `|mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))`. The trace of the root is the sum of the
    singular values of `cov_a^(1/2) cov_b^(1/2)`, which is exact for singular covariances too.
    """
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError(
            f"frechet_distance needs at least two samples per set, but got {len(features_a)} and {len(features_b)}."
        )
    (mean_a, covariance_a), (mean_b, covariance_b) = (_moments(features) for features in (features_a, features_b))
    cross = np.linalg.svd(_square_root(covariance_a) @ _square_root(covariance_b), compute_uv=False).sum()
    distance = np.square(mean_a - mean_b).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return float(distance)


def _moments(features: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features.cpu(), dtype=np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def _square_root(covariance: np.ndarray) -> np.ndarray:
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    return (eigenvectors * np.sqrt(eigenvalues.clip(min=0))) @ eigenvectors.T


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="Folder that prepare_data.py wrote.")
    parser.add_argument("--output", default=DEFAULT_JUDGE_PATH, help="File to save the judge to.")
    parser.add_argument("--epochs", type=int, default=14, help="Number of epochs over the train digits.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the weights, the order and the augmentation.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    judge = train_judge(*load_split(args.data_dir, "train"), epochs=args.epochs, seed=args.seed)
    seconds = time.perf_counter() - start
    images, labels = load_split(args.data_dir, "test")
    accuracy = agreement(judge, extract_features(judge, images), labels)
    save_judge(judge, args.output)
    print(json.dumps({"judge": args.output, "held_out_accuracy": accuracy, "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main(parse_args())
