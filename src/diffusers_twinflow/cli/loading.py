"""Arguments that the drawing commands share, and the pipeline they name."""

import argparse
from pathlib import Path
from typing import Any

import torch

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES
from ..hub.files import locate_repository
from ..hub.repository import LORA, TwinFlowRepositoryConfig
from ..hub.samples import STEP_COUNTS
from ..image_files import load_image
from ..pipelines import TwinFlowPipeline

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="+", help="What to draw; several prompts give several pictures.")
    add_pipeline_arguments(parser)


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEP_COUNTS), help="Step counts of the LoRA.")
    parser.add_argument("--base_steps", type=int, default=50)
    parser.add_argument("--base_guidance", type=float, help="Guidance of the base; defaults to the stock pipeline's.")


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapter", required=True, help="TwinFlow repository: a directory or a Hub id.")
    parser.add_argument("--base_model", help="The base, where it is not the one that the repository names.")
    parser.add_argument("--revision", help="Revision of the repository on the Hub.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", help="What the prompts edit, where the base edits an image: a path or a URL.")
    parser.add_argument("--height", type=int, help="In pixels; defaults to the base's.")
    parser.add_argument("--width", type=int, help="In pixels; defaults to the base's.")
    parser.add_argument(
        "--num_frames", type=int, help="Frames of a clip, where the base draws videos; defaults to 1, a picture."
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="Defaults to bfloat16 on a GPU, float32 on the CPU.")
    parser.add_argument("--device", help="Such as cuda, mps or cpu; defaults to what there is.")


def load_pipeline(args: argparse.Namespace) -> TwinFlowPipeline:
    """The pipeline of `--adapter` on `--device`.

    Raises:
        TwinFlowConfigError: where it cannot be loaded, or cannot draw what is asked for.
    """
    family = FAMILIES[read_config(args).family]
    family.check_draws_videos(args.num_frames)
    if family.takes_reference_image and not args.image:
        raise TwinFlowConfigError(f"--image is missing: the model of '{args.adapter}' edits an image.")
    device = args.device or default_device()
    dtype = DTYPES[args.dtype or ("float32" if device == "cpu" else "bfloat16")]
    pipeline = TwinFlowPipeline.from_pretrained(
        args.adapter, base_model=args.base_model, dtype=dtype, revision=args.revision
    )
    if args.num_frames is not None:
        family.check_num_frames(pipeline, args.num_frames)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def read_config(args: argparse.Namespace) -> TwinFlowRepositoryConfig:
    """The configuration of `--adapter`; no weights are loaded."""
    return TwinFlowRepositoryConfig.load_located(locate_repository(args.adapter, revision=args.revision))


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def size_options(args: argparse.Namespace) -> dict[str, Any]:
    """Size, length and image, as the pipeline's call takes them."""
    names = ("height", "width", "num_frames")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return options | ({"image": load_image(args.image, option="--image")} if args.image else {})


def check_picture_path(text: str, endings: tuple[str, ...] = PICTURE_ENDINGS) -> Path:
    """A path that a picture can be written to, its folder made.

    Raises:
        TwinFlowConfigError: where it has none of the endings.
    """
    path = Path(text)
    if path.suffix.lower() not in endings:
        raise TwinFlowConfigError(f"--out={text!r} must end in {' or '.join(endings)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def check_comparable(args: argparse.Namespace) -> TwinFlowRepositoryConfig:
    """The configuration of `--adapter`, where its base can be drawn beside it; no weights are loaded.

    Raises:
        TwinFlowConfigError: where a step count is below 1, or `--adapter` holds no TwinFlow LoRA.
    """
    check_steps([*args.steps, args.base_steps])
    config = read_config(args)
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{args.adapter}' holds a whole model, which has no base in it: {args.command} takes a LoRA."
        )
    return config


def check_steps(steps: list[int]) -> list[int]:
    """
    Raises:
        TwinFlowConfigError: where a step count is below 1.
    """
    if min(steps) < 1:
        raise TwinFlowConfigError(f"{min(steps)} steps are too few: give 1 or more.")
    return steps
