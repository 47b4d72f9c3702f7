"""Save a trained base as the base that ships with the repository, with the transformer in float16."""

import argparse

from base import DEFAULT_BASE_DIR, load_base
from build_base import save_base

MAXIMUM_BYTES = 12_000_000


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--trained", default="outputs/digits/trained_base", help="Output folder of train_twinflow.py.")
    parser.add_argument("--output_dir", default=DEFAULT_BASE_DIR, help="Folder to save the base to.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    size = save_base(load_base(args.trained), args.output_dir)
    if size > MAXIMUM_BYTES:
        raise ValueError(
            f"{args.output_dir} has {size:,} bytes, but the repository allows only {MAXIMUM_BYTES:,}. Build a "
            "smaller transformer with build_base.py."
        )
    print(f"{args.output_dir}: {size:,} bytes")


if __name__ == "__main__":
    main(parse_args())
