"""Draw the base at many steps beside the TwinFlow LoRA at 1, 2 and 4, from the same noise, in one grid."""

import argparse

from ..configuration import TwinFlowConfigError
from ..hub.loading import unload_twinflow_lora
from ..hub.repository import LORA
from ..hub.samples import STEP_COUNTS, draw_row, grid_of_columns
from .loading import add_drawing_arguments, check_picture_path, check_steps, load_pipeline, size_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drawing_arguments(parser)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEP_COUNTS), help="Step counts of the LoRA.")
    parser.add_argument("--base_steps", type=int, default=50)
    parser.add_argument("--base_guidance", type=float, help="Guidance of the base; defaults to the stock pipeline's.")
    parser.add_argument("--out", default="comparison.png", help="A row a prompt: the base, then each step count.")


def run(args: argparse.Namespace) -> None:
    path = check_picture_path(args.out)
    check_steps([*args.steps, args.base_steps])
    pipeline = load_pipeline(args)
    config = pipeline.twinflow_config
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{args.adapter}' holds a whole model, which has no base in it: compare takes a LoRA."
        )
    options = size_options(args)
    columns = [draw_row(pipeline, args.prompt, steps, args.seed, **options) for steps in args.steps]
    unload_twinflow_lora(pipeline)
    if args.base_guidance is not None:
        options["guidance_scale"] = args.base_guidance
    base = draw_row(pipeline, args.prompt, args.base_steps, args.seed, **options)
    grid_of_columns([base, *columns]).save(path)
    print(f"{path}: base at {args.base_steps} steps, then {', '.join(map(str, args.steps))}")  # noqa: T201
