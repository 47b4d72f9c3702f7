"""Add images that the base generated to the data: for the training captions, and for captions outside of both splits."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from PIL import Image as PILImage

from .dataset import Split
from .prepare_data import SKIN_TONES
from .sampling import Sampler, load_base
from .settings import Settings

OWN_SAMPLES = "own_samples"
TONED = re.compile(rf"(.*) ({'|'.join(sorted(SKIN_TONES.values(), key=len, reverse=True))}) skin tone in (.*) style")


def new_captions(train: Split, test: Split) -> dict[str, int]:
    """Return captions with a skin tone that no image has, and the training image that each was made from."""
    known, captions = {*train.texts, *test.texts}, {}
    for index, text in enumerate(train.texts):
        match = TONED.fullmatch(text)
        for tone in SKIN_TONES.values() if match else ():
            caption = f"{match[1]} {tone} skin tone in {match[3]} style"
            if caption not in known:
                captions.setdefault(caption, index)
    return captions


def add_own_samples(
    base: Path, data_dir: Path, output_dir: Path, train: Split, test: Split, settings: Settings, guidance_scale: float
) -> dict[str, int]:
    """Write the data and as many images of the base, with its steps and guidance. Returns their numbers."""
    sources = [*((text, index) for index, text in enumerate(train.texts)), *new_captions(train, test).items()]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline, side = load_base(base, device), settings.image_size // 4
    generator = torch.Generator().manual_seed(settings.seed + 2)
    noise = torch.randn((len(sources), settings.latent_channels, side, side), generator=generator)
    sampler = Sampler(pipeline, [caption for caption, _ in sources], noise, settings.seed)
    images = (sampler.draw(pipeline, settings.base_steps, guidance_scale).clamp(0, 1) * 255).round()
    pixels = images.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    real = load_dataset("parquet", data_files={"train": str(data_dir / "train.parquet")}, split="train")
    rows = real.select_columns([name for name in real.column_names if name != "image"])
    drawn = rows.select([index for _, index in sources]).to_dict()
    drawn |= {
        "text": [caption for caption, _ in sources],
        "image": [{"bytes": encoded(image), "path": None} for image in pixels],
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    own = Dataset.from_dict({name: drawn[name] for name in real.column_names}, features=real.features)
    concatenate_datasets([real, own]).to_parquet(output_dir / "train.parquet")
    shutil.copy(data_dir / "test.parquet", output_dir)
    return {"real": len(real), "own": len(own), "new_captions": len(own) - len(train)}


def encoded(image: np.ndarray) -> bytes:
    """Return an image as lossless WebP."""
    file = io.BytesIO()
    PILImage.fromarray(image).save(file, "WEBP", lossless=True, quality=40, method=3)
    return file.getvalue()
