import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_twinflow.data import DataConfig, open_source
from quality.dataset import load_split
from quality.prepare_data import held_out, main, parse_args, plain_words, read_items

TONES = {
    code: {"image": f"wave-{code.lower()}.png", "has_img_google": True, "has_img_twitter": True}
    for code in ("1F3FB", "1F3FF")
}
COUPLE = {"1F3FB-1F3FF": {"image": "pair.png", "has_img_google": True, "has_img_twitter": True}}
NAMES = ("GRINNING FACE", "Egypt Flag", "red-haired apple", "keycap: 1")


def entry(name: str, image: str, **more) -> dict:
    shown = {"has_img_google": True, "has_img_twitter": True}
    return {"name": name, "image": image, "category": "Things", "subcategory": "some-things", **shown, **more}


@pytest.fixture
def packages(tmp_path):
    """Two packages of five emoji, one of them in two skin tones; Twitter lacks the last one."""
    for vendor, colour in (("google", (255, 0, 0)), ("twitter", (0, 0, 255))):
        entries = [entry(name, f"{number}.png") for number, name in enumerate(NAMES)]
        entries[-1][f"has_img_{vendor}"] = vendor == "google"
        entries.append(entry("WAVING HAND", "wave.png", skin_variations=TONES | COUPLE))
        folder = tmp_path / vendor / "img" / vendor / "64"
        folder.mkdir(parents=True)
        (tmp_path / vendor / "emoji.json").write_text(json.dumps(entries))
        for number, name in enumerate(
            [*(f"{i}.png" for i in range(4)), "wave.png", "wave-1f3fb.png", "wave-1f3ff.png"]
        ):
            pixels = np.zeros((64, 64, 4), dtype=np.uint8)
            pixels[: 8 + number, :8] = (*colour, 255)
            Image.fromarray(pixels).save(folder / name)
    return tmp_path


def prepare(packages, *more: str):
    folders = [f"--{vendor}={packages / vendor}" for vendor in ("google", "twitter")]
    main(parse_args([*folders, f"--output_dir={packages / 'data'}", *more]))
    return load_split(packages / "data", "train"), load_split(packages / "data", "test")


def test_names_become_plain_words():
    assert plain_words("Man's SHOE: (left-hand)") == "man s shoe left hand"


def test_an_emoji_has_one_skin_tone_at_most(packages):
    names = [item["name"] for item in read_items(packages / "google", "google").values()]
    assert len(names) == 6 and "waving hand" in names
    assert sum("skin tone" in name for name in names) == 1


def test_images_are_on_white_and_have_two_captions(packages):
    train, test = prepare(packages)
    assert len(train) + len(test) == 11
    texts, groups = train.texts + test.texts, train.group_texts + test.group_texts
    assert "egypt flag in noto style" in texts and "egypt flag in twemoji style" in texts
    assert "keycap 1 in noto style" in texts and "keycap 1 in twemoji style" not in texts
    assert set(groups) == {"some things in noto style", "some things in twemoji style"}
    images, styles = torch.cat([train.images, test.images]), torch.cat([train.styles, test.styles])
    assert (images[:, :, -1, -1] == 1).all()
    for style, colour in enumerate(([1.0, 0.0, 0.0], [0.0, 0.0, 1.0])):
        assert (images[styles == style][:, :, 0, 0] == torch.tensor(colour)).all()


def test_the_counts_are_those_of_the_files(packages):
    train, test = prepare(packages)
    counts = json.loads((packages / "data" / "counts.json").read_text())
    assert counts["images"] == 11 and counts["bytes"] > 0
    for split, found in (("train", train), ("test", test)):
        assert counts[split]["images"] == len(found)
        assert sum(counts[split].get(style, 0) for style in ("noto", "twemoji")) == len(found)
    assert sum(counts[split].get("noto", 0) for split in ("train", "test")) == 6


def test_the_folder_is_data_to_train_on(packages, tmp_path):
    """The counts beside the images are no part of the dataset."""
    train, _ = prepare(packages)
    config = DataConfig(dataset_name=str(packages / "data"), resolution=64, cache_dir=str(tmp_path / "cache"))
    assert len(open_source(config, tmp_path / "out").rows.rows) == len(train)


def test_what_is_held_out_is_known_in_another_style():
    rows = [{"item": str(number // 2), "style": number % 2} for number in range(400)]
    rows += [{"item": f"alone {number}", "style": 0} for number in range(100)]
    chosen = held_out(rows, seed=0)
    assert 15 <= chosen.sum() <= 50 and not chosen[400:].any()
    assert (chosen[:400].reshape(-1, 2).sum(1) <= 1).all()
    assert (held_out(rows, seed=0) == chosen).all() and (held_out(rows, seed=1) != chosen).any()


def test_images_of_another_size_are_refused(packages):
    Image.new("RGBA", (32, 32)).save(packages / "google" / "img" / "google" / "64" / "0.png")
    with pytest.raises(ValueError, match="0.png is 32x32, not 64x64"):
        prepare(packages)


def test_a_missing_package_names_the_remedy(packages):
    with pytest.raises(FileNotFoundError, match="npm pack emoji-datasource-google"):
        main(parse_args([f"--google={packages}", f"--twitter={packages / 'twitter'}"]))
