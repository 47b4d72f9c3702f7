"""Define the arguments that several commands share, and check them before anything is imported or loaded."""

import argparse
import os
from contextlib import suppress
from pathlib import Path

from ..configuration import TwinFlowConfigError

STYLES = ("few", "any", "multi")
DTYPES = ("bfloat16", "float16", "float32")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
STEP_COUNTS = (1, 2, 4)
MAX_STEPS = 1000
MAX_SEED = 2**32 - 1
MAX_PROMPT_LENGTH = 10_000
"""Maximum length in characters. It is more than any text encoder reads, and short enough to tokenize quickly."""


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="+", help="Prompt. Several prompts give several images.")
    add_pipeline_arguments(parser)


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=list(STEP_COUNTS),
        help="Numbers of steps for the LoRA, one image each. Default: 1 2 4.",
    )
    parser.add_argument("--base_steps", type=int, default=50, help="Number of steps for the base. Default: 50.")
    parser.add_argument(
        "--base_guidance",
        type=float,
        help="Guidance scale for the base. Default: the default of the stock pipeline.",
    )


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapter", required=True, help="TwinFlow LoRA or model: a folder or a Hub id.")
    add_loading_arguments(parser)


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base_model", help="Folder or Hub id of the base, if it has moved since training.")
    add_hub_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="Seed of the noise. Default: 0.")
    parser.add_argument("--image", help="Path or URL of the image to edit. Only for bases that edit images.")
    parser.add_argument("--height", type=int, help="Height in pixels. Default: the height that the base was made for.")
    parser.add_argument("--width", type=int, help="Width in pixels. Default: the width that the base was made for.")
    parser.add_argument(
        "--num_frames", type=int, help="Number of frames, for bases that generate videos. Default: 1, a still image."
    )
    parser.add_argument(
        "--sampling_style",
        choices=STYLES,
        help="How to sample. few: each step predicts the image and adds new noise; any: each step jumps to the next; multi: "
        "ordinary flow-matching steps, 30 or more. Default: the style of the repository.",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="Number format of the weights. Default: bfloat16 on a GPU, float32 on a CPU.",
    )
    parser.add_argument("--device", help="Device, such as cuda, mps or cpu. Default: a GPU if there is one.")


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subfolder", help="Folder inside the repository that contains the model. Default: none.")
    parser.add_argument("--revision", help="Branch, tag or commit of the repository on the Hub.")
    parser.add_argument("--token", help="Hub token. Default: HF_TOKEN, or the token of `hf auth login`.")


def check_prompt(prompt: str) -> str:
    """Return the prompt if it is valid.

    Raises:
        TwinFlowConfigError: if it is empty or too long.
    """
    if not prompt.strip():
        raise TwinFlowConfigError("The prompt is empty. Describe the image that you want.")
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise TwinFlowConfigError(
            f"The prompt has {len(prompt)} characters. Shorten it to at most {MAX_PROMPT_LENGTH}."
        )
    return prompt


def check_seed(seed: object, name: str = "The seed") -> int:
    """Return the seed as an integer.

    Raises:
        TwinFlowConfigError: if it is not a whole number, or too small or too large.
    """
    if not isinstance(seed, (int, float)) or not 0 <= seed <= MAX_SEED or seed != int(seed):
        raise TwinFlowConfigError(f"{name} must be a whole number from 0 to {MAX_SEED}, but it is {seed!r}.")
    return int(seed)


def check_drawing(args: argparse.Namespace) -> None:
    """Check the arguments of `add_pipeline_arguments` and the command's step counts and prompts.

    Raises:
        TwinFlowConfigError: if a value is outside its range.
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
    """Check that `count` output files can be written, create their folder, and return their paths.

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
            f"--out={str(path)!r} cannot be written ({reason}). Choose another place."
        ) from error
    if is_new:
        with suppress(OSError):
            path.unlink()
