"""Generate images or videos in few steps with a TwinFlow LoRA or model."""

import argparse

from .output import say
from .shared_arguments import IMAGE_ENDINGS, add_drawing_arguments, check_drawing, check_output

CLIP_ENDINGS = (".webp", ".gif")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawing_arguments(parser)
    parser.add_argument("--steps", type=int, help="Number of steps. Default: the number it was distilled for.")
    parser.add_argument(
        "--out",
        help="Output file. Default: twinflow.png, or twinflow.webp for videos (.webp or .gif). "
        "For several prompts, a number is added: out-1.png, out-2.png, ...",
    )


def run(args: argparse.Namespace) -> None:
    check_drawing(args)
    has_clips = args.num_frames is not None and args.num_frames > 1
    name, endings = ("twinflow.webp", CLIP_ENDINGS) if has_clips else ("twinflow.png", IMAGE_ENDINGS)
    paths = check_output(args.out or name, endings, len(args.prompt))
    from ..hub.sample_images import draw_frames
    from .command_pipeline import load_pipeline, refusals
    from .media_files import save_image

    pipeline, options = load_pipeline(args)
    for prompt, path in zip(args.prompt, paths, strict=True):
        with refusals():
            (frames,) = draw_frames(pipeline, [prompt], args.steps, args.seed, **options)
        save_image(frames, path, pipeline)
        say(path)
