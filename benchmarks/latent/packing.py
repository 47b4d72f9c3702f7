"""Pack Fluent Emoji in 3D and their names, from two npm packages, into one file for `benchmarks/latent.py`.

    npm pack @lobehub/fluent-emoji-3d && npm pack emoji-datasource-google
    mkdir fluent google
    tar xzf lobehub-fluent-emoji-3d-*.tgz -C fluent && tar xzf emoji-datasource-google-*.tgz -C google
    python benchmarks/latent/packing.py --fluent fluent/package --names google/package --output fluent.zip

Drawings: Fluent Emoji (c) Microsoft, MIT, packaged by LobeHub, MIT. Names: emoji-data (c) Cal Henderson, MIT. Nothing of it
is in this repository.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1]))

from diffusers_twinflow.image_files import as_rgb, decode_image
from latent.data import Drawing, pack
from quality.prepare_data import read_items


def read_emoji(fluent: Path, names: Path, size: int) -> list[Drawing]:
    """Read the drawings that have a name, on white.

    Args:
        fluent: unpacked package @lobehub/fluent-emoji-3d.
        names: unpacked package emoji-datasource-google.
        size: side of the images in pixels.
    """
    folder = fluent / "assets"
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder}: unpack @lobehub/fluent-emoji-3d and give --fluent DIR/package.")
    paths = {(folder / name).with_suffix(".webp"): item for name, item in read_items(names, "google").items()}
    found = {path: item for path, item in paths.items() if path.is_file()}
    if not found:
        raise ValueError(f"no drawing in {folder} has a name in {names}: give the packages' own folders.")
    drawings = []
    for path, item in found.items():
        image = as_rgb(decode_image(path))
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS)
        drawings.append(Drawing(image, item["name"], item["group"]))
    return drawings


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fluent", type=Path, required=True, help="Unpacked package @lobehub/fluent-emoji-3d.")
    parser.add_argument("--names", type=Path, required=True, help="Unpacked package emoji-datasource-google.")
    parser.add_argument("--size", type=int, default=256, help="Side of the images in pixels.")
    parser.add_argument("--output", type=Path, default=Path("fluent.zip"), help="File to write.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    drawings = read_emoji(args.fluent, args.names, args.size)
    pack(drawings, args.output)
    print(f"{args.output}: {len(drawings)} drawings, {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(parse_args())
