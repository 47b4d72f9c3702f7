"""Generate images from the same noise at several step counts and combine them into one grid."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..families import family_of
from ..families.video import strip
from .files import CONFIG_NAME, SAMPLE_SUFFIXES, SAMPLES_FOLDER, is_inside
from .grids import labelled_grid
from .repository import TwinFlowRepositoryConfig

logger = logging.get_logger(__name__)

PROMPTS_KEY, COLUMNS_KEY, PROMPT_KEY = "prompts", "columns", "prompt"
SAMPLE_NAME = "steps.png"
PROMPT_IMAGE = "prompt-{}.png"
STEP_COUNTS = (1, 2, 4)


def draw_row(
    pipeline: DiffusionPipeline, prompts: Sequence[str], num_inference_steps: int, seed: int = 0, **call_options: Any
) -> list[Image.Image]:
    """Generate one image per prompt, each from the noise of `seed`. For a video, show some frames side by side.

    Args:
        pipeline: pipeline to generate with.
        prompts: prompts, one image each.
        num_inference_steps: step count.
        seed: seed of the noise, the same for every prompt. Defaults to 0.
        call_options: further arguments of the pipeline's call, such as `height`.

    Returns:
        The images in the order of the prompts.
    """
    return [strip(frames) for frames in draw_frames(pipeline, prompts, num_inference_steps, seed, **call_options)]


def draw_frames(
    pipeline: DiffusionPipeline, prompts: Sequence[str], num_inference_steps: int, seed: int = 0, **call_options: Any
) -> list[list[Image.Image]]:
    """Like `draw_row`, but return all frames of each video. An image is a list of one frame."""
    family = family_of(pipeline)
    return [
        family.draw_frames(
            pipeline,
            [prompt],
            num_inference_steps=num_inference_steps,
            generator=torch.Generator("cpu").manual_seed(seed),
            **call_options,
        )[0]
        for prompt in prompts
    ]


def save_samples(
    directory: str | Path,
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    step_counts: Sequence[int] = STEP_COUNTS,
    seed: int = 0,
    **call_options: Any,
) -> Path:
    """Generate the sample grid of a model card, with one row per prompt and one column per step count.

    Args:
        directory: directory of the repository. The grid is saved in its folder `samples/`.
        pipeline: pipeline to generate with.
        prompts: the prompts, one row each.
        step_counts: the step counts, one column each. Defaults to 1, 2 and 4.
        seed: seed of the noise, the same for every prompt and step count. Defaults to 0.
        call_options: further arguments of the pipeline's call, such as `height`.

    Returns:
        The path of the grid.

    Examples:
        >>> save_samples("my-lora", pipe, ["a red fox in the snow"])
    """
    columns = {
        count_of_steps(steps): draw_row(pipeline, prompts, steps, seed, **call_options) for steps in step_counts
    }
    return write_samples(directory, columns, prompts)


def count_of_steps(steps: int) -> str:
    """Return a step count in words, such as "1 step"."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def write_samples(directory: str | Path, columns: Mapping[str, Sequence[Image.Image]], prompts: Sequence[str]) -> Path:
    """Save columns of images, by label, as the sample grid of a model card. Returns its path."""
    grid = labelled_grid(columns, prompts)
    path = Path(directory) / SAMPLES_FOLDER / SAMPLE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text(PROMPTS_KEY, json.dumps(list(prompts)))
    info.add_text(COLUMNS_KEY, json.dumps(list(columns)))
    grid.save(path, pnginfo=info)
    write_prompt_images(directory, columns, prompts)
    return path


def write_prompt_images(
    directory: str | Path, columns: Mapping[str, Sequence[Image.Image]], prompts: Sequence[str]
) -> None:
    """Save one image per prompt for the widget of a model card. Older images are deleted.

    The images come from the column of the step count that the repository was distilled for, or from the last column if
    there is no such column.
    """
    folder = Path(directory) / SAMPLES_FOLDER
    for old in folder.glob(PROMPT_IMAGE.format("*")):
        if read_prompt(directory, old.name) is not None:
            old.unlink()
    has_config = (Path(directory) / CONFIG_NAME).is_file()
    trained = count_of_steps(TwinFlowRepositoryConfig.load(directory).num_inference_steps) if has_config else None
    images = columns[trained] if trained is not None and trained in columns else list(columns.values())[-1]
    for number, (prompt, image) in enumerate(zip(prompts, images), 1):
        info = PngInfo()
        info.add_text(PROMPT_KEY, json.dumps(prompt))
        image.save(folder / PROMPT_IMAGE.format(number), pnginfo=info)


def read_prompt(directory: str | Path, name: str) -> str | None:
    """Return the prompt that `write_prompt_images` stored in an image of `samples/`, or `None`."""
    if not fnmatch(name, PROMPT_IMAGE.format("*")):
        return None
    prompt = _read_note(Path(directory), name, PROMPT_KEY)
    return prompt if isinstance(prompt, str) else None


def read_prompts(directory: str | Path) -> list[str]:
    """Return the prompts of the grid that `save_samples` wrote, or an empty list if there is no grid."""
    return _read_list(directory, PROMPTS_KEY)


def read_columns(directory: str | Path) -> list[str]:
    """Return the labels of the grid's columns, or an empty list if there is no grid or it has no labels."""
    return _read_list(directory, COLUMNS_KEY)


def _read_list(directory: str | Path, key: str) -> list[str]:
    note = _read_note(Path(directory), SAMPLE_NAME, key)
    return [str(text) for text in note] if isinstance(note, list) else []


def _read_note(directory: Path, name: str, key: str) -> Any:
    """Return the value stored under a key in an image of `samples/`, or `None` if there is none that can be read."""
    path = directory / SAMPLES_FOLDER / name
    if not path.is_file() or not is_inside(path, directory):
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return json.loads(image.info.get(key, "null"))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning(f"The labels of '{path}' cannot be read ({error}), so the model card does not show them.")
        return None


def sample_names(directory: str | Path) -> list[str]:
    """Return the sorted names of the image files in `samples/`. Links out of the repository are left out."""
    directory = Path(directory)
    paths = sorted((directory / SAMPLES_FOLDER).glob("*"))
    return [
        path.name
        for path in paths
        if path.suffix.lower() in SAMPLE_SUFFIXES and path.is_file() and is_inside(path, directory)
    ]
