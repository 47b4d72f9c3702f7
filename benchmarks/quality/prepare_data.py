"""Convert the emoji images of two npm packages to a dataset of captioned images.

    npm pack emoji-datasource-google && npm pack emoji-datasource-twitter
    mkdir google twitter
    tar xzf emoji-datasource-google-*.tgz -C google && tar xzf emoji-datasource-twitter-*.tgz -C twitter
    python benchmarks/quality/prepare_data.py --google google/package --twitter twitter/package

Images: Noto Emoji (c) Google, Apache-2.0; Twemoji (c) Twitter and contributors, CC-BY 4.0. Names and groups:
emoji-data (c) Cal Henderson, MIT. Nothing of it is in this repository.
"""

import argparse
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from pyarrow.parquet import read_table
from tqdm.auto import tqdm

DEFAULT_OUTPUT_DIR = "outputs/quality/data"
PACKAGES = {"google": "noto", "twitter": "twemoji"}
SKIN_TONES = {
    "1F3FB": "light",
    "1F3FC": "medium light",
    "1F3FD": "medium",
    "1F3FE": "medium dark",
    "1F3FF": "dark",
}
IMAGE_SIZE = 64
HELD_OUT_ITEMS = 0.16
MAXIMUM_BYTES = 15_000_000
SPLITS = ("train", "test")
COUNTS_NAME = "counts.json"


def plain_words(name: str) -> str:
    """Return a text as lower-case words of letters and digits: `plain_words("Man's SHOE")` is "man s shoe"."""
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def read_items(package: Path, vendor: str) -> dict[str, dict]:
    """Return the emoji that have an image in a package, by the image's name, with at most one skin tone per emoji.

    The five skin tones of an emoji are nearly the same image, and together they would be half of the data.
    """
    items = {}
    for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        described = {"name": plain_words(entry["name"]), "category": entry["category"], "group": entry["subcategory"]}
        pictures = [(described, entry)]
        tones = sorted(set(entry.get("skin_variations", {})) & set(SKIN_TONES))
        if tones:
            tone = tones[sum(entry["image"].encode()) % len(tones)]
            name = f"{described['name']} {SKIN_TONES[tone]} skin tone"
            pictures.append((described | {"name": name}, entry["skin_variations"][tone]))
        for item, source in pictures:
            if source.get(f"has_img_{vendor}"):
                items[source["image"]] = item
    return items


def read_image(path: Path) -> bytes:
    """Return an image on white, as lossless WebP."""
    image = PILImage.open(path).convert("RGBA")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"{path} is {image.width}x{image.height}, not {IMAGE_SIZE}x{IMAGE_SIZE}: give the package's own."
        )
    canvas = PILImage.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    encoded = io.BytesIO()
    canvas.convert("RGB").save(encoded, "WEBP", lossless=True, quality=40, method=3)
    return encoded.getvalue()


def read_rows(packages: dict[str, Path]) -> list[dict]:
    """Return every image with its captions: `text` is its name, and `group_text` the group, which has many images."""
    rows = []
    for vendor, package in packages.items():
        folder = package / "img" / vendor / str(IMAGE_SIZE)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no {folder}: `npm pack emoji-datasource-{vendor}`, unpack it and give --{vendor} DIR/package."
            )
        style = PACKAGES[vendor]
        for file_name, item in tqdm(read_items(package, vendor).items(), desc=style):
            rows.append(
                {
                    "image": {"bytes": read_image(folder / file_name), "path": None},
                    "text": f"{item['name']} in {style} style",
                    "group_text": f"{plain_words(item['group'])} in {style} style",
                    "category": item["category"],
                    "group": item["group"],
                    "style": style,
                    "item": item["name"],
                }
            )
    return rows


def held_out(rows: list[dict], seed: int) -> np.ndarray:
    """Choose the rows to hold out: for some emoji with several styles, the image of one style.

    Every word of a held-out caption is then known, and so is the emoji in another style, but not the image.
    """
    generator = np.random.default_rng(seed)
    by_item: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_item.setdefault(row["item"], []).append(index)
    is_held_out = np.zeros(len(rows), dtype=bool)
    for indices in by_item.values():
        chosen, which = generator.random() < HELD_OUT_ITEMS, int(generator.integers(len(indices)))
        if chosen and len({rows[index]["style"] for index in indices}) > 1:
            is_held_out[indices[which]] = True
    return is_held_out


def write_splits(rows: list[dict], is_held_out: np.ndarray, output_dir: str | Path) -> Path:
    """Write one parquet file per split, with classes for group and style."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    features = Features(
        {"image": Image(), **{name: Value("string") for name in ("text", "group_text", "category", "item")}}
        | {name: ClassLabel(names=sorted({row[name] for row in rows})) for name in ("group", "style")}
    )
    for split, chosen in zip(SPLITS, (~is_held_out, is_held_out)):
        part = [row for row, keep in zip(rows, chosen) if keep]
        columns = {name: [row[name] for row in part] for name in features}
        Dataset.from_dict(columns, features=features).to_parquet(output_dir / f"{split}.parquet")
    return output_dir


def write_counts(data_dir: str | Path) -> dict[str, int | dict[str, int]]:
    """Write the number of images, in total and by split and style, to `COUNTS_NAME` beside the parquet files."""
    counts: dict[str, int | dict[str, int]] = {}
    for split in SPLITS:
        styles = Dataset(read_table(Path(data_dir, f"{split}.parquet"))).select_columns("style")
        names = Counter(map(styles.features["style"].int2str, styles["style"]))
        counts[split] = {"images": len(styles), **dict(sorted(names.items()))}
    counts["images"] = sum(counts[split]["images"] for split in SPLITS)
    counts["bytes"] = sum(path.stat().st_size for path in Path(data_dir).glob("*.parquet"))
    Path(data_dir, COUNTS_NAME).write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return counts


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for vendor in PACKAGES:
        parser.add_argument(f"--{vendor}", type=Path, required=True, help=f"Unpacked emoji-datasource-{vendor}.")
    parser.add_argument("--output_dir", default=DEFAULT_OUTPUT_DIR)
    parser.add_argument("--seed", type=int, default=0, help="Seed of the choice of held-out images.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    rows = read_rows({vendor: getattr(args, vendor) for vendor in PACKAGES})
    is_held_out = held_out(rows, args.seed)
    output_dir = write_splits(rows, is_held_out, args.output_dir)
    counts = write_counts(output_dir)
    size = counts["bytes"]
    if size > MAXIMUM_BYTES:
        raise ValueError(f"{output_dir} takes {size:,} bytes, more than {MAXIMUM_BYTES:,}: leave out some images.")
    train, test = (counts[split]["images"] for split in SPLITS)
    print(f"{output_dir}: {train} train and {test} held-out images, {size:,} bytes")


if __name__ == "__main__":
    main(parse_args())
