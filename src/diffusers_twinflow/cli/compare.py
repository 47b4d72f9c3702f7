"""Draw the base at many steps beside the TwinFlow LoRA at 1, 2 and 4, from the same noise, in one grid."""

import argparse

from ..hub.samples import grid_of_columns
from .clips import draws_clips, save_clip
from .comparison import Comparison
from .loading import (
    add_comparison_arguments,
    add_drawing_arguments,
    check_comparable,
    check_picture_path,
    load_pipeline,
    size_options,
)

HELP = "A row a prompt: the base, then each step count. Of clips four frames each, and out-clip.webp plays them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawing_arguments(parser)
    add_comparison_arguments(parser)
    parser.add_argument("--out", default="comparison.png", help=HELP)


def run(args: argparse.Namespace) -> None:
    path = check_picture_path(args.out)
    check_comparable(args)
    comparison = Comparison(
        load_pipeline(args), args.steps, args.base_steps, base_guidance=args.base_guidance, **size_options(args)
    )
    rows = [comparison.draw_all(prompt, args.seed) for prompt in args.prompt]
    grid_of_columns([[row[label].image for row in rows] for label in comparison.labels]).save(path)
    if draws_clips(args):
        clip_path = path.with_name(f"{path.stem}-clip.webp")
        grids = [
            grid_of_columns([[row[label].frames[i] for row in rows] for label in comparison.labels])
            for i in range(args.num_frames)
        ]
        save_clip(grids, clip_path, comparison.pipeline)
        print(clip_path)  # noqa: T201
    print(f"{path}: base at {args.base_steps} steps, then {', '.join(map(str, args.steps))}")  # noqa: T201
