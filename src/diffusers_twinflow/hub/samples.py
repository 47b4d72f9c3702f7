"""Pictures of the same noise at several step counts, in one grid."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging, make_image_grid
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..families import family_of
from ..families.video import strip
from .files import SAMPLE_SUFFIXES, SAMPLES_FOLDER, is_inside

logger = logging.get_logger(__name__)

PROMPTS_KEY, COLUMNS_KEY = "prompts", "columns"
SAMPLE_NAME = "steps.png"
STEP_COUNTS = (1, 2, 4)


def draw_row(
    pipeline: DiffusionPipeline, prompts: Sequence[str], num_inference_steps: int, seed: int = 0, **call_options
) -> list[Image.Image]:
    """One picture a prompt, each from the noise of `seed`; of a video some frames side by side.

    Args:
        call_options: passed to the pipeline's call, such as `height`.
    """
    return [strip(frames) for frames in draw_frames(pipeline, prompts, num_inference_steps, seed, **call_options)]


def draw_frames(
    pipeline: DiffusionPipeline, prompts: Sequence[str], num_inference_steps: int, seed: int = 0, **call_options
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
    **call_options,
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
    grid = grid_of_columns(list(columns.values()))
    path = Path(directory) / SAMPLES_FOLDER / SAMPLE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text(PROMPTS_KEY, json.dumps(list(prompts)))
    info.add_text(COLUMNS_KEY, json.dumps(list(columns)))
    grid.save(path, pnginfo=info)
    return path


def read_prompts(directory: str | Path) -> list[str]:
    """The prompts of the grid that `save_samples` wrote; none where there is no such grid."""
    return _read_note(directory, PROMPTS_KEY)


def read_columns(directory: str | Path) -> list[str]:
    """The labels of the grid's columns; none where there is no such grid, or it has no labels."""
    return _read_note(directory, COLUMNS_KEY)


def _read_note(directory: str | Path, key: str) -> list[str]:
    path = Path(directory) / SAMPLES_FOLDER / SAMPLE_NAME
    if not path.is_file() or not is_inside(path, Path(directory)):
        return []
    try:
        with Image.open(path, formats=["PNG"]) as image:
            note = json.loads(image.info.get(key, "[]"))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning(f"'{path}' is not a grid that save_samples wrote ({error}): its labels are left out.")
        return []
    return [str(text) for text in note] if isinstance(note, list) else []


def sample_names(directory: str | Path) -> list[str]:
    """Names of the image files in `samples/`, in order; links to places outside the repository are left out."""
    directory = Path(directory)
    paths = sorted((directory / SAMPLES_FOLDER).glob("*"))
    return [
        path.name
        for path in paths
        if path.suffix.lower() in SAMPLE_SUFFIXES and path.is_file() and is_inside(path, directory)
    ]
