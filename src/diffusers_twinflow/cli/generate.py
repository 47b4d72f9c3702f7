"""Draw pictures or clips in few steps with a TwinFlow LoRA or model."""

import argparse

from ..hub.samples import draw_frames
from .clips import CLIP_ENDINGS, draws_clips, save_clip
from .loading import (
    PICTURE_ENDINGS,
    add_drawing_arguments,
    check_picture_path,
    check_steps,
    load_pipeline,
    size_options,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawing_arguments(parser)
    parser.add_argument("--steps", type=int, help="Defaults to what the adapter was distilled for.")
    parser.add_argument(
        "--out",
        help="Defaults to twinflow.png, or twinflow.webp of clips, which may be .gif too. "
        "Several prompts are written as out-1.png, out-2.png, ...",
    )


def run(args: argparse.Namespace) -> None:
    name, endings = ("twinflow.webp", CLIP_ENDINGS) if draws_clips(args) else ("twinflow.png", PICTURE_ENDINGS)
    path = check_picture_path(args.out or name, endings)
    if args.steps is not None:
        check_steps([args.steps])
    pipeline = load_pipeline(args)
    drawn = draw_frames(pipeline, args.prompt, args.steps, args.seed, **size_options(args))
    for number, frames in enumerate(drawn, 1):
        target = path if len(drawn) == 1 else path.with_stem(f"{path.stem}-{number}")
        if draws_clips(args):
            save_clip(frames, target, pipeline)
        else:
            frames[0].save(target)
        print(target)  # noqa: T201
