"""The judge: a convolutional classifier of group and style, trained only on real images.

The Frechet distance uses the features of its last hidden layer.
"""

from copy import deepcopy
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from judge import augment
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from .dataset import Split
from .settings import Settings
from .timing import steps_within

FEATURES = 128
BATCH_SIZE = 64


def convolutions(channels: tuple[int, ...]) -> nn.Sequential:
    """Build the blocks of a judge, one per number of channels. Each block halves the side, and the output is flattened."""
    blocks: list[nn.Module] = []
    for in_channels, out_channels in zip((3, *channels[:-1]), channels):
        blocks += [
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*blocks, nn.Flatten())


class Judge(nn.Module):
    """Classifies images `[N, 3, H, W]` in [0, 1]. H and W are 4 times 2 to the number of blocks."""

    def __init__(self, channels: tuple[int, ...], num_groups: int, num_styles: int):
        super().__init__()
        self.convolutions = convolutions(channels)
        self.hidden = nn.Linear(channels[-1] * 4 * 4, FEATURES)
        self.dropout = nn.Dropout(0.3)
        self.group = nn.Linear(FEATURES, num_groups)
        self.style = nn.Linear(FEATURES, num_styles)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.hidden(self.convolutions(2 * images - 1)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.dropout(self.features(images))
        return self.group(features), self.style(features)


def train_judge(train: Split, settings: Settings, device: torch.device) -> Judge:
    """Train a judge for `judge_seconds`, with augmentation."""
    torch.manual_seed(settings.seed)
    judge = Judge(settings.judge_channels, train.num_groups, train.num_styles).to(device)
    images, groups, styles = (tensor.to(device) for tensor in (train.images, train.groups, train.styles))
    generator = torch.Generator().manual_seed(settings.seed)

    def loss_of(model: Judge) -> torch.Tensor:
        indices = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        group, style = model(augment(images[indices], generator, "border"))
        return F.cross_entropy(group, groups[indices], label_smoothing=0.1) + F.cross_entropy(style, styles[indices])

    trial = deepcopy(judge)
    steps = steps_within(settings.judge_seconds, _stepper(trial, loss_of, torch.optim.AdamW(trial.parameters())))
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    step = _stepper(judge, loss_of, optimizer)
    for _ in tqdm(range(steps), desc="Judge", mininterval=5):
        step()
        schedule.step()
    return judge.eval().requires_grad_(False)


def _stepper(model: nn.Module, loss_of, optimizer: torch.optim.Optimizer):
    def step() -> None:
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@torch.no_grad()
def extract_features(judge: Judge, images: torch.Tensor, batch_size: int = 512) -> torch.Tensor:
    """Return the features `[N, 128]` of images `[N, 3, H, W]` in [0, 1], on any device."""
    device = judge.hidden.weight.device
    return torch.cat([judge.features(batch.to(device)) for batch in images.split(batch_size)])


def agreement(judge: Judge, features: torch.Tensor, groups: torch.Tensor, styles: torch.Tensor) -> dict[str, float]:
    """Return the shares of images, given by their features, in which the judge sees the group, the style, and both."""
    sees_group = judge.group(features).argmax(dim=1).cpu() == groups.cpu()
    sees_style = judge.style(features).argmax(dim=1).cpu() == styles.cpu()
    shares = {"agreement": sees_group & sees_style, "group_agreement": sees_group, "style_agreement": sees_style}
    return {name: share.double().mean().item() for name, share in shares.items()}


def save_judge(judge: Judge, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(judge.state_dict(), str(path))


def load_judge(path: str | Path, settings: Settings, device: torch.device | str = "cpu") -> Judge:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no judge at {path}: run `python benchmarks/quality.py --stage base` first.")
    weights = load_file(str(path))
    judge = Judge(settings.judge_channels, len(weights["group.weight"]), len(weights["style.weight"]))
    judge.load_state_dict(weights)
    return judge.eval().requires_grad_(False).to(device)
