"""Export a TwinFlow LoRA or model for stock diffusers, ComfyUI and other tools."""

import argparse

from .output import note, say
from .shared_arguments import DTYPES, STYLES, add_hub_arguments

FORMATS = ("diffusers", "comfyui", "merged", "transformer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="TwinFlow LoRA or model: a folder or a Hub id.")
    parser.add_argument("output", help="New folder for the result.")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="diffusers",
        help="What to write. diffusers: a plain LoRA; comfyui: a LoRA and workflows for ComfyUI; merged: a whole stock "
        "pipeline; transformer: the merged transformer in one file. Default: diffusers.",
    )
    parser.add_argument(
        "--sampling_style",
        choices=STYLES,
        help="Sampling style that the exported weights support. Default: the style of the repository.",
    )
    parser.add_argument(
        "--step_counts",
        type=int,
        nargs="+",
        help="Step counts for which the exported weights are exact, the most important one first. Default: the trained "
        "step count and as many of 1, 2, 3, 4 and 8 as possible.",
    )
    parser.add_argument("--base_model", help="Folder or Hub id of the base, if it has moved since training.")
    add_hub_arguments(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="Number format of the exported weights. Default: as in the LoRA file, or float32 for a whole model.",
    )
    parser.add_argument("--prompt", default="your prompt", help="Prompt in the ComfyUI workflows.")


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    import torch

    from ..pipelines import export

    options = {"subfolder": args.subfolder, "revision": args.revision, "token": args.token}
    options = {name: value for name, value in options.items() if value is not None}
    if args.dtype:
        options["dtype"] = getattr(torch, args.dtype)
    note(f"Loading {args.adapter} and its base ...")
    use = export(
        args.adapter,
        args.output,
        args.format,
        sampling_style=args.sampling_style,
        step_counts=args.step_counts,
        base_model=args.base_model,
        prompt=args.prompt,
        **options,
    )
    for path in sorted(Path(args.output).iterdir()):
        say(path)
    if args.format == "comfyui":
        return
    if isinstance(use, str):
        say("scheduler:", use)
        return
    say("scheduler:", use.scheduler_code())
    for count in sorted(use.sigmas):
        say("call:", use.call_code(count))
