"""Draw pictures in few steps with a TwinFlow LoRA or model."""

import argparse

from ..hub.samples import draw_row
from .loading import add_drawing_arguments, check_picture_path, check_steps, load_pipeline, size_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawing_arguments(parser)
    parser.add_argument("--steps", type=int, help="Defaults to what the adapter was distilled for.")
    parser.add_argument(
        "--out", default="twinflow.png", help="Several prompts are written as out-1.png, out-2.png, ..."
    )


def run(args: argparse.Namespace) -> None:
    path = check_picture_path(args.out)
    if args.steps is not None:
        check_steps([args.steps])
    pipeline = load_pipeline(args)
    images = draw_row(pipeline, args.prompt, args.steps, args.seed, **size_options(args))
    for number, image in enumerate(images, 1):
        target = path if len(images) == 1 else path.with_stem(f"{path.stem}-{number}")
        image.save(target)
        print(target)  # noqa: T201
