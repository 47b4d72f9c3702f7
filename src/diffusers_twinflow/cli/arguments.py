"""Arguments that several commands share, and what can be checked about them before anything is imported or loaded."""

import argparse
import os
from contextlib import suppress
from pathlib import Path

from ..configuration import TwinFlowConfigError

DTYPES = ("bfloat16", "float16", "float32")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
STEP_COUNTS = (1, 2, 4)
MAX_STEPS = 1000
MAX_SEED = 2**32 - 1
MAX_PROMPT_LENGTH = 10_000
"""Characters; far beyond what a text encoder reads, and short enough to be tokenized at once."""


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="+", help="What to draw. Several prompts give several images.")
    add_pipeline_arguments(parser)


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps", type=int, nargs="+", default=list(STEP_COUNTS), help="Step counts of the LoRA; default: 1 2 4."
    )
    parser.add_argument("--base_steps", type=int, default=50, help="Steps of the base; default: 50.")
    parser.add_argument(
        "--base_guidance", type=float, help="Guidance scale of the base; default: the stock pipeline's."
    )


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapter", required=True, help="TwinFlow repository: a folder or a Hub id.")
    parser.add_argument("--base_model", help="Folder or Hub id of the base, if the repository's own is not there.")
    add_hub_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="Seed of the noise; default: 0.")
    parser.add_argument("--image", help="Path or URL of the image to edit, for bases that edit images.")
    parser.add_argument("--height", type=int, help="Height in pixels; default: the base's.")
    parser.add_argument("--width", type=int, help="Width in pixels; default: the base's.")
    parser.add_argument(
        "--num_frames", type=int, help="Frames of a clip, for bases that draw videos; default: 1, a still image."
    )
    parser.add_argument("--dtype", choices=DTYPES, help="Default: bfloat16 on a GPU, float32 on the CPU.")
    parser.add_argument("--device", help="Device such as cuda, mps or cpu; default: the best one there is.")


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subfolder", help="Folder of the repository that holds the model; default: the repository.")
    parser.add_argument("--revision", help="Branch, tag or commit of the repository on the Hub.")
    parser.add_argument("--token", help="Hub token; default: HF_TOKEN, or the one of `hf auth login`.")


def check_prompt(prompt: str) -> str:
    """
    Raises:
        TwinFlowConfigError: if it is empty or too long.
    """
    if not prompt.strip():
        raise TwinFlowConfigError("The prompt is empty: write what to draw.")
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise TwinFlowConfigError(
            f"The prompt has {len(prompt)} characters: shorten it to {MAX_PROMPT_LENGTH} or fewer."
        )
    return prompt


def check_seed(seed: object, name: str = "The seed") -> int:
    """The seed as a whole number.

    Raises:
        TwinFlowConfigError: if it is no whole number, or too small or large.
    """
    if not isinstance(seed, (int, float)) or not 0 <= seed <= MAX_SEED or seed != int(seed):
        raise TwinFlowConfigError(f"{name} must be a whole number from 0 to {MAX_SEED}, and is {seed!r}.")
    return int(seed)


def check_drawing(args: argparse.Namespace) -> None:
    """Check the arguments of `add_pipeline_arguments`, and the step counts and prompts that the command has besides.

    Raises:
        TwinFlowConfigError: if one is out of its range.
    """
    check_seed(args.seed, "--seed")
    for name in ("height", "width", "num_frames"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise TwinFlowConfigError(f"--{name}={value} must be 1 or more.")
    steps = args.steps if isinstance(args.steps, list) else [args.steps]
    for name, count in [*(("steps", count) for count in steps), ("base_steps", getattr(args, "base_steps", None))]:
        if count is not None and not 1 <= count <= MAX_STEPS:
            raise TwinFlowConfigError(f"--{name}={count} is not valid: use 1 to {MAX_STEPS} steps.")


def check_output(text: str, endings: tuple[str, ...] = IMAGE_ENDINGS, count: int = 1) -> list[Path]:
    """The paths of `count` files that can be written; their folder is made.

    Raises:
        TwinFlowConfigError: if `text` has none of the endings, or a file cannot be written there.
    """
    path = Path(text)
    if path.suffix.lower() not in endings:
        raise TwinFlowConfigError(f"--out={text!r} must end in {' or '.join(endings)}.")
    paths = [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]
    for each in paths:
        _check_writable(each)
    return paths


def _check_writable(path: Path) -> None:
    is_new = not os.path.exists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        reason = f"'{path.parent}' is a file" if os.path.isfile(path.parent) else str(error.strerror)
        raise TwinFlowConfigError(
            f"--out={str(path)!r} cannot be written ({reason}): choose another place."
        ) from error
    if is_new:
        with suppress(OSError):
            path.unlink()
