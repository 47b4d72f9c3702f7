"""The judge: a convolutional network for drawings and captions, trained only on the real drawings.

The Fréchet distance and the diversity use its last hidden features. It also says whether an image matches its caption.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from judge import augment
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from quality.judge import convolutions
from quality.timing import steps_within

from .settings import Settings

FEATURES = 128
BATCH_SIZE = 128
SHARPNESS = 12.0
"""Initial inverse temperature of the captions' logits."""
BEST_CAPTIONS = 5


class CaptionJudge(nn.Module):
    """Features of images, the group of their subject, and how well they match captions.

    Args:
        captions: names of drawings. A name is seen as its set of words.
        groups: the group of each of them, as its caption.
        settings: `judge_size` and `judge_channels`.
    """

    num_features = FEATURES

    def __init__(self, captions: Sequence[str], groups: Sequence[str], settings: Settings):
        super().__init__()
        self.size, self.captions = settings.judge_size, list(captions)
        self.places = {caption: place for place, caption in enumerate(self.captions)}
        self.group_places = {group: place for place, group in enumerate(sorted(set(groups)))}
        words = sorted({word for caption in captions for word in caption.split()})
        numbers = {word: number for number, word in enumerate(words)}
        shares = torch.zeros(len(self.captions), len(words))
        for place, caption in enumerate(self.captions):
            for word in caption.split():
                shares[place, numbers[word]] = 1
        self.register_buffer("words", shares / shares.norm(dim=1, keepdim=True), persistent=False)
        self.register_buffer("groups", torch.tensor([self.group_places[group] for group in groups]), persistent=False)
        self.convolutions = convolutions(settings.judge_channels)
        self.hidden = nn.Linear(settings.judge_channels[-1] * 4 * 4, FEATURES)
        self.dropout = nn.Dropout(0.2)
        self.group = nn.Linear(FEATURES, len(self.group_places))
        self.of_image = nn.Linear(FEATURES, FEATURES)
        self.of_words = nn.Linear(len(words), FEATURES, bias=False)
        self.scale = nn.Parameter(torch.tensor(SHARPNESS))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of images in [0, 1], shape [N, 3, H, W] of any size."""
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="area")
        return F.relu(self.hidden(self.convolutions(2 * images - 1)))

    def logits(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of all groups and of all captions."""
        images = F.normalize(self.of_image(features), dim=1)
        captions = F.normalize(self.of_words(self.words), dim=1)
        return self.group(features), self.scale * images @ captions.T

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of uint8 images, as a Fréchet distance takes them."""
        return self.features(images.float() / 255)

    @torch.no_grad()
    def score_groups(self, images: torch.Tensor, prompts: list[str]) -> dict[str, torch.Tensor]:
        """Score images in [0, 1] of captions of groups, one by one: whether it is the right group, and how they look."""
        groups, _ = self.logits(self.features(images))
        places = torch.tensor([self.group_places[prompt] for prompt in prompts], device=images.device)
        return {"group_agreement": (groups.argmax(dim=1) == places).float(), **looks(images)}

    @torch.no_grad()
    def score_names(self, images: torch.Tensor, prompts: list[str]) -> dict[str, torch.Tensor]:
        """Score images in [0, 1] of names, one by one: whether the name is among the best."""
        _, names = self.logits(self.features(images))
        places = torch.tensor([self.places[prompt] for prompt in prompts], device=images.device)
        best = names.topk(min(BEST_CAPTIONS, names.shape[1]), dim=1).indices
        return {"caption_agreement": (best == places[:, None]).any(dim=1).float()}


class UnitFeatures(nn.Module):
    """The judge's features, scaled to length 1, as `Diversity` takes them."""

    def __init__(self, judge: CaptionJudge):
        super().__init__()
        self.judge = judge

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.judge(images), dim=1)


def looks(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return sharpness, saturation and brightness per image. Images are in [0, 1], shape [N, 3, H, W].

    The sharpness is the mean size of what a 3x3 blur removes.
    """
    gray = images.mean(dim=1, keepdim=True)
    blurred = F.avg_pool2d(F.pad(gray, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return {
        "sharpness": (gray - blurred).abs().flatten(1).mean(1),
        "saturation": (images.amax(dim=1) - images.amin(dim=1)).flatten(1).mean(1),
        "brightness": images.flatten(1).mean(1),
    }


def train_judge(
    judge: CaptionJudge, images: torch.Tensor, captions: Sequence[str], settings: Settings, device: torch.device
) -> dict[str, float]:
    """Train a judge for `judge_seconds`, with augmentation. Returns the steps and the last loss.

    Args:
        images: uint8, shape [N, 3, H, W].
        captions: captions of the images.
    """
    judge.to(device)
    size = (settings.judge_size, settings.judge_size)
    small = torch.cat(
        [F.interpolate(part.to(device).float() / 255, size=size, mode="area") for part in images.split(BATCH_SIZE)]
    )
    places = torch.tensor([judge.places[caption] for caption in captions], device=device)
    generator, losses = torch.Generator().manual_seed(settings.seed), [0.0]

    def loss_of(model: CaptionJudge) -> torch.Tensor:
        chosen = torch.randint(len(small), (min(BATCH_SIZE, len(small)),), generator=generator)
        features = model.dropout(model.features(augment(small[chosen], generator, "border")))
        group, caption = model.logits(features)
        chosen = chosen.to(device)
        return F.cross_entropy(group, model.groups[places[chosen]], label_smoothing=0.1) + F.cross_entropy(
            caption, places[chosen], label_smoothing=0.1
        )

    trial = deepcopy(judge).train()
    steps = steps_within(settings.judge_seconds, _stepper(trial, loss_of, torch.optim.AdamW(trial.parameters())))
    judge.train()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    step = _stepper(judge, loss_of, optimizer)
    for _ in tqdm(range(steps), desc="Judge", mininterval=5):
        losses[0] = step()
        schedule.step()
    judge.eval().requires_grad_(False)
    return {"steps": steps, "loss": float(losses[0])}


def _stepper(
    model: CaptionJudge, loss_of: Callable[[CaptionJudge], torch.Tensor], optimizer: torch.optim.Optimizer
) -> Callable[[], torch.Tensor]:
    def step() -> torch.Tensor:
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def save_judge(judge: CaptionJudge, path: Path) -> None:
    save_file(judge.state_dict(), str(path))


def load_judge(judge: CaptionJudge, path: Path, device: torch.device) -> None:
    judge.load_state_dict(load_file(str(path)))
    judge.eval().requires_grad_(False).to(device)
