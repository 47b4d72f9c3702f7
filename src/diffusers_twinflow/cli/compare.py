"""Compare a TwinFlow LoRA at 1, 2 and 4 steps with its base at 50 steps, from the same noise, in one image."""

import argparse

from .output import say
from .shared_arguments import add_comparison_arguments, add_drawing_arguments, check_drawing, check_output

HELP = "Output image. Default: comparison.png. Videos are also saved as an animation, comparison-clip.webp."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawing_arguments(parser)
    add_comparison_arguments(parser)
    parser.add_argument("--out", default="comparison.png", help=HELP)


def run(args: argparse.Namespace) -> None:
    check_drawing(args)
    (path,) = check_output(args.out)
    from ..hub.grids import GridLayout
    from .command_pipeline import check_comparable, load_pipeline
    from .comparison import Comparison
    from .media_files import save_image

    check_comparable(args)
    pipeline, options = load_pipeline(args)
    comparison = Comparison(pipeline, args.steps, args.base_steps, base_guidance=args.base_guidance, **options)
    rows = [comparison.draw_all(prompt, args.seed) for prompt in args.prompt]
    columns = {label: [row[label].image for row in rows] for label in comparison.labels}
    save_image([GridLayout(columns, args.prompt).draw(columns)], path, pipeline)
    say(f"{path}: base at {args.base_steps} steps, then {', '.join(map(str, args.steps))}")
    clips = {label: [row[label].frames for row in rows] for label in comparison.labels}
    frames = [
        {label: [clip[i] for clip in column] for label, column in clips.items()}
        for i in range(len(clips[comparison.base_label][0]))
    ]
    if len(frames) > 1:
        layout, clip_path = GridLayout(frames[0], args.prompt), path.with_name(f"{path.stem}-clip.webp")
        save_image([layout.draw(columns) for columns in frames], clip_path, pipeline)
        say(clip_path)
