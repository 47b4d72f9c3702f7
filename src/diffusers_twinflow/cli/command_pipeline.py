"""Load the pipeline of a command from its arguments."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..data.encoders import size_multiple
from ..families import FAMILIES, Family, family_of
from ..families.video import check_draws_videos
from ..hub.files import LocatedRepository, locate_repository
from ..hub.repository import LORA, TwinFlowRepositoryConfig
from ..hub.stock_copy import scheduler_of
from ..image_files import load_image
from ..pipelines import TwinFlowPipeline
from .output import note


def load_pipeline(args: argparse.Namespace, *, announce: bool = True) -> tuple[TwinFlowPipeline, dict[str, Any]]:
    """Load the pipeline of `--adapter` on `--device`.

    Args:
        announce: tell the user that it is loaded.

    Returns:
        The pipeline, and the arguments of its call for size, length and image.

    Raises:
        TwinFlowConfigError: if the pipeline cannot be loaded, or does not support the arguments.
    """
    family = FAMILIES[read_config(args).family]
    device = check_device(args.device or default_device())
    options = call_options(args, family)
    dtype = getattr(torch, args.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    if announce:
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
    if args.sampling_style:
        pipeline.scheduler = scheduler_of(pipeline).with_style(args.sampling_style)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device), options


def read_config(args: argparse.Namespace) -> TwinFlowRepositoryConfig:
    """Read the configuration of `--adapter` without loading weights."""
    return locate(args)[1]


def locate(args: argparse.Namespace) -> tuple[LocatedRepository, TwinFlowRepositoryConfig]:
    """Find the repository of `--adapter` and read its configuration."""
    repository = locate_repository(args.adapter, subfolder=args.subfolder, revision=args.revision, token=args.token)
    return repository, TwinFlowRepositoryConfig.load_located(repository)


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        TwinFlowConfigError: if the device does not exist, or PyTorch cannot use it.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TwinFlowConfigError(
            f"--device={name} cannot be used ({reason}). Use --device={default_device()}, or leave it out."
        ) from error
    return device


def call_options(args: argparse.Namespace, family: Family) -> dict[str, Any]:
    """Return size, length and image as arguments of the pipeline's call.

    Raises:
        TwinFlowConfigError: if the family does not generate videos, if an image is missing or not allowed, or if the
            image cannot be read.
    """
    check_draws_videos(family, args.num_frames)
    if family.takes_reference_image and not args.image:
        raise TwinFlowConfigError(f"--image is missing: the model of '{args.adapter}' needs an image to edit.")
    if args.image and not family.takes_reference_image:
        raise TwinFlowConfigError(
            f"--image={args.image} cannot be used with '{args.adapter}', which does not edit images. Leave it out."
        )
    names = ("height", "width", "num_frames")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return options | ({family.image_argument: load_image(args.image, option="--image")} if args.image else {})


def check_size(pipeline: DiffusionPipeline, args: argparse.Namespace) -> None:
    """Check `--height` and `--width`.

    Raises:
        TwinFlowConfigError: if the pipeline does not support a value, or would round it.
    """
    multiple = size_multiple(pipeline, family_of(pipeline).denoiser(pipeline))
    for name in ("height", "width"):
        value = getattr(args, name)
        if value is not None and value % multiple:
            below = value // multiple * multiple
            sizes = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise TwinFlowConfigError(
                f"--{name}={value} is not valid: it must be a multiple of {multiple} pixels for this base. Use {sizes}."
            )


@contextmanager
def refusals() -> Iterator[None]:
    """Turn errors of a pipeline's call that the user can fix into clear errors.

    Raises:
        TwinFlowConfigError: if the pipeline raises a `ValueError` or runs out of memory.
    """
    try:
        yield
    except TwinFlowConfigError:
        raise
    except ValueError as error:
        raise TwinFlowConfigError(f"The pipeline cannot generate this: {error}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TwinFlowConfigError(
            f"There is not enough memory ({reason}). Lower --height, --width or --num_frames, or use --dtype bfloat16."
        ) from error


def check_comparable(args: argparse.Namespace) -> TwinFlowRepositoryConfig:
    """Check that `--adapter` can be compared with its base, and return its configuration. No weights are loaded.

    Raises:
        TwinFlowConfigError: if `--adapter` is not a TwinFlow LoRA.
    """
    config = read_config(args)
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{args.adapter}' is a whole model, which cannot be compared with its base. Use {args.command} with a LoRA."
        )
    return config
