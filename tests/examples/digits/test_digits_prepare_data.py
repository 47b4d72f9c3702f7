import pytest
import torch
from datasets import load_dataset
from prepare_data import DIGIT_NAMES, digit_prompt, load_split


def test_splits_are_balanced_and_captioned(data_dir):
    dataset = load_dataset(str(data_dir))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 4000, "test": 1000}
    assert dataset["train"][0]["image"].size == (32, 32)
    for rows, expected in ((dataset["train"], 400), (dataset["test"], 100)):
        captions = list(rows["text"])
        assert {caption: captions.count(caption) for caption in set(captions)} == {
            f"a handwritten {name}": expected for name in DIGIT_NAMES
        }
    row = dataset["test"][0]
    assert row["text"] == digit_prompt(row["label"])


def test_images_are_gray_on_a_black_margin(splits):
    images, labels = splits["test"]
    assert images.shape == (1000, 3, 32, 32) and labels.shape == (1000,)
    assert images.min() == 0 and images.max() == 1
    assert torch.equal(images[:, 0], images[:, 2])
    assert images[:, :, :2].max() == images[:, :, :, -2:].max() == 0


def test_no_digit_is_in_both_splits(splits):
    train, test = (splits[split][0][:, 0].flatten(1) for split in ("train", "test"))
    assert torch.cdist(test, train).min() > 0


def test_missing_data_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir=.*prepare_data\.py"):
        load_split(tmp_path, "train")
