"""Makes the base that ships with the repository from a trained one: the same pipeline, the transformer in float16."""

import argparse

from base import DEFAULT_BASE_DIR, load_base
from build_base import save_base

MAXIMUM_BYTES = 12_000_000


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", default="outputs/digits/trained_base", help="What train_twinflow.py wrote.")
    parser.add_argument("--output_dir", default=DEFAULT_BASE_DIR, help="Folder of the finished base.")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    size = save_base(load_base(args.trained), args.output_dir)
    if size > MAXIMUM_BYTES:
        raise ValueError(
            f"{args.output_dir} takes {size:,} bytes, more than the {MAXIMUM_BYTES:,} that the repository ships: "
            "build a smaller transformer with build_base.py."
        )
    print(f"{args.output_dir}: {size:,} bytes")


if __name__ == "__main__":
    main(parse_args())
