"""Pictures of the same noise at several step counts, in one grid."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging, make_image_grid
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
    """One picture a prompt, each from the noise of `seed`; of a video some frames side by side.

    Args:
        call_options: passed to the pipeline's call, such as `height`.
    """
    return [strip(frames) for frames in draw_frames(pipeline, prompts, num_inference_steps, seed, **call_options)]


def draw_frames(
    pipeline: DiffusionPipeline, prompts: Sequence[str], num_inference_steps: int, seed: int = 0, **call_options: Any
) -> list[list[Image.Image]]:
    """As `draw_row`, with all frames of each video; a picture is one frame."""
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


def grid_of_columns(columns: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """One picture of columns of equal length, first column on the left."""
    rows = list(zip(*columns, strict=True))
    return make_image_grid([image for row in rows for image in row], rows=len(rows), cols=len(columns))


def save_samples(
    directory: str | Path,
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    step_counts: Sequence[int] = STEP_COUNTS,
    seed: int = 0,
    **call_options: Any,
) -> Path:
    """Draw the grid that a model card shows: a row a prompt, a column a step count; returns its path."""
    columns = {
        count_of_steps(steps): draw_row(pipeline, prompts, steps, seed, **call_options) for steps in step_counts
    }
    return write_samples(directory, columns, prompts)


def count_of_steps(steps: int) -> str:
    """A step count in words."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def write_samples(directory: str | Path, columns: Mapping[str, Sequence[Image.Image]], prompts: Sequence[str]) -> Path:
    """Write drawn columns, by label, as the grid that a model card shows; returns its path."""
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
    """Write an image of each prompt by itself, for the widget of a model card, in place of older ones.

    They are those of the step count that the repository in `directory` was distilled for, or else of the last column.
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
    """The prompt that `write_prompt_images` noted in an image of `samples/`; `None` if it noted none."""
    if not fnmatch(name, PROMPT_IMAGE.format("*")):
        return None
    prompt = _read_note(Path(directory), name, PROMPT_KEY)
    return prompt if isinstance(prompt, str) else None


def read_prompts(directory: str | Path) -> list[str]:
    """The prompts of the grid that `save_samples` wrote; none if there is no such grid."""
    return _read_list(directory, PROMPTS_KEY)


def read_columns(directory: str | Path) -> list[str]:
    """The labels of the grid's columns; none if there is no such grid, or it has no labels."""
    return _read_list(directory, COLUMNS_KEY)


def _read_list(directory: str | Path, key: str) -> list[str]:
    note = _read_note(Path(directory), SAMPLE_NAME, key)
    return [str(text) for text in note] if isinstance(note, list) else []


def _read_note(directory: Path, name: str, key: str) -> Any:
    """The note of a key in an image of `samples/`; `None` if it has none that can be read."""
    path = directory / SAMPLES_FOLDER / name
    if not path.is_file() or not is_inside(path, directory):
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return json.loads(image.info.get(key, "null"))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning(f"'{path}' is not an image that save_samples wrote ({error}): its labels are left out.")
        return None


def sample_names(directory: str | Path) -> list[str]:
    """Names of the image files in `samples/`, in order; links to places outside the repository are left out."""
    directory = Path(directory)
    paths = sorted((directory / SAMPLES_FOLDER).glob("*"))
    return [
        path.name
        for path in paths
        if path.suffix.lower() in SAMPLE_SUFFIXES and path.is_file() and is_inside(path, directory)
    ]
