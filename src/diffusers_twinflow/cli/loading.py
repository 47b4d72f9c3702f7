"""The pipeline that a command's arguments name."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..data.encoders import size_multiple
from ..families import FAMILIES, Family, family_of
from ..hub.files import locate_repository
from ..hub.repository import LORA, TwinFlowRepositoryConfig
from ..image_files import load_image
from ..pipelines import TwinFlowPipeline
from .output import note


def load_pipeline(args: argparse.Namespace) -> tuple[TwinFlowPipeline, dict[str, Any]]:
    """The pipeline of `--adapter` on `--device`, and the arguments of its call for size, length and image.

    Raises:
        TwinFlowConfigError: if it cannot be loaded, or cannot draw what is asked for.
    """
    family = FAMILIES[read_config(args).family]
    device = check_device(args.device or default_device())
    options = call_options(args, family)
    dtype = getattr(torch, args.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    note(f"Loading {args.adapter} on {device} ...")
    pipeline = TwinFlowPipeline.from_pretrained(
        args.adapter,
        base_model=args.base_model,
        dtype=dtype,
        subfolder=args.subfolder,
        revision=args.revision,
        token=args.token,
    )
    check_size(pipeline, args)
    if args.num_frames is not None:
        family.check_num_frames(pipeline, args.num_frames)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device), options


def read_config(args: argparse.Namespace) -> TwinFlowRepositoryConfig:
    """The configuration of `--adapter`; no weights are loaded."""
    repository = locate_repository(args.adapter, subfolder=args.subfolder, revision=args.revision, token=args.token)
    return TwinFlowRepositoryConfig.load_located(repository)


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(name: str) -> torch.device:
    """
    Raises:
        TwinFlowConfigError: if there is no such device, or PyTorch cannot use it.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TwinFlowConfigError(
            f"--device={name} cannot be used ({reason}): use --device={default_device()}, or leave it out."
        ) from error
    return device


def call_options(args: argparse.Namespace, family: Family) -> dict[str, Any]:
    """Size, length and image, as the call of a family's pipeline takes them.

    Raises:
        TwinFlowConfigError: if the family draws no videos, needs an image or takes none, or the image cannot be read.
    """
    family.check_draws_videos(args.num_frames)
    if family.takes_reference_image and not args.image:
        raise TwinFlowConfigError(f"--image is missing: the model of '{args.adapter}' edits an image.")
    if args.image and not family.takes_reference_image:
        raise TwinFlowConfigError(
            f"--image={args.image} is not for '{args.adapter}', whose model edits no image: leave it out."
        )
    names = ("height", "width", "num_frames")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return options | ({"image": load_image(args.image, option="--image")} if args.image else {})


def check_size(pipeline: DiffusionPipeline, args: argparse.Namespace) -> None:
    """
    Raises:
        TwinFlowConfigError: if the pipeline cannot draw `--height` or `--width`, or would round it.
    """
    multiple = size_multiple(pipeline, family_of(pipeline).denoiser(pipeline))
    for name in ("height", "width"):
        value = getattr(args, name)
        if value is not None and value % multiple:
            below = value // multiple * multiple
            sizes = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise TwinFlowConfigError(
                f"--{name}={value} is not valid: the base draws multiples of {multiple} pixels. Use {sizes}."
            )


@contextmanager
def refusals() -> Iterator[None]:
    """Around a pipeline's call: what the pipeline refuses, or has no memory for, is an error that a user can mend.

    Raises:
        TwinFlowConfigError: in place of a ValueError of the pipeline, or of an error for lack of memory.
    """
    try:
        yield
    except TwinFlowConfigError:
        raise
    except ValueError as error:
        raise TwinFlowConfigError(f"The pipeline cannot draw this: {error}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TwinFlowConfigError(
            f"There is too little memory ({reason}): lower --height, --width or --num_frames, or use --dtype bfloat16."
        ) from error


def check_comparable(args: argparse.Namespace) -> TwinFlowRepositoryConfig:
    """The configuration of `--adapter`, if its base can be drawn beside it; no weights are loaded.

    Raises:
        TwinFlowConfigError: if `--adapter` holds no TwinFlow LoRA.
    """
    config = read_config(args)
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{args.adapter}' holds a whole model, which has no base in it: {args.command} takes a LoRA."
        )
    return config
