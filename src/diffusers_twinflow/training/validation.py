"""Pictures of a model in training, from the same noise every time."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..families import Family
from ..hub.repository import TwinFlowRepositoryConfig
from ..hub.samples import count_of_steps, draw_row
from ..image_files import load_image
from ..methods.base import AveragedWeights
from ..methods.rng_snapshot import RNGSnapshot
from ..models import without_targets
from ..pipelines import as_twinflow_pipeline
from ..writing import write_file
from .arguments import TrainingArguments
from .distributed import autocast

FOLDER = "validation"
Columns = dict[str, list[Image.Image]]


@contextmanager
def aside_from_training(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluate a model in training: afterwards its mode and the global random generators are what they were."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), RNGSnapshot(device).replay():
            yield
    finally:
        model.train(was_training)


@contextmanager
def components_to_save(
    family: Family, pipeline: DiffusionPipeline, average: AveragedWeights | None, save_ema: bool
) -> Iterator[dict[str, Any]]:
    """The pipeline's components with the weights that the run would save now.

    Args:
        average: `None` if no average is kept.
        save_ema: whether the EMA weights are saved rather than the last.
    """
    components = dict(pipeline.components)
    if average is None or not save_ema:
        yield components
        return
    with average.activated():
        yield components | {family.component_name: average.transformer}


class Validation:
    """Draws the validation prompts as a user will, in columns that all start from the same noise.

    With TwinFlow a column a step count, by `TwinFlowScheduler` without guidance; otherwise one as the stock pipeline
    draws. The first column is the base at many steps, drawn before training. Every process draws: a model that is
    sharded over them needs all in step.

    Args:
        args: the options of the run.
        uses_twinflow: whether the trained model has a target time.
        with_encoders: a context in which the pipeline's other networks are on the device.
    """

    def __init__(
        self,
        args: TrainingArguments,
        uses_twinflow: bool,
        family: Family,
        pipeline: DiffusionPipeline,
        accelerator: Accelerator,
        with_encoders: Callable[[], AbstractContextManager],
    ) -> None:
        self.args, self.uses_twinflow, self.family, self.pipeline = args, uses_twinflow, family, pipeline
        self.accelerator, self.with_encoders = accelerator, with_encoders
        parameters = inspect.signature(pipeline.__call__).parameters
        self.stock_steps = parameters["num_inference_steps"].default
        self.options = family.size_options(args.validation_resolution or args.resolution)
        if args.max_sequence_length and "max_sequence_length" in parameters:
            self.options["max_sequence_length"] = args.max_sequence_length
        if args.validation_image:
            self.options["image"] = load_image(args.validation_image, option="validation_image")
        if args.num_frames:
            self.options["num_frames"] = args.num_frames
        self.base: Columns = {}
        self.drawn: Columns = {}
        self.drawn_step: int | None = None

    def draw_base(self) -> None:
        """Draw the column of the base; to be called before anything is trained or resumed."""
        steps = self.stock_steps if self.args.validation_base_steps is None else self.args.validation_base_steps
        if self.args.validation_prompts and steps:
            with self.drawing(), without_targets(self.family.denoiser(self.pipeline)):
                self.base = {f"base, {count_of_steps(steps)}": self._column(self._pipeline(), steps)}

    def draw(
        self,
        average: AveragedWeights | None,
        step: int,
        step_counts: Sequence[int],
        described: TwinFlowRepositoryConfig,
    ) -> Columns:
        """The columns by label, with the weights that would be saved at `step`; the base's first.

        Args:
            average: the EMA weights, where any are kept.
            described: what `twinflow_config.json` says of the weights.
        """
        with self.trained_pipeline(average, described) as (pipeline, steps):
            if self.uses_twinflow:
                self.drawn = {count_of_steps(steps): self._column(pipeline, steps) for steps in step_counts}
            else:
                self.drawn = {f"trained, {count_of_steps(steps)}": self._column(pipeline, steps)}
        self.drawn_step = step
        return self.base | self.drawn

    @contextmanager
    def trained_pipeline(
        self, average: AveragedWeights | None, described: TwinFlowRepositoryConfig
    ) -> Iterator[tuple[DiffusionPipeline, int]]:
        """A pipeline with the weights that would be saved, and the steps that it draws in.

        Args:
            average, described: as in `draw`.
        """
        with (
            self.drawing(),
            components_to_save(self.family, self.pipeline, average, self.args.save_ema) as components,
        ):
            pipeline = self._pipeline(components)
            if self.uses_twinflow:
                yield as_twinflow_pipeline(pipeline, described), described.num_inference_steps
            else:
                yield pipeline, self.stock_steps

    def samples(self, step_counts: Sequence[int]) -> Columns:
        """The base's column and some of those drawn last, a picture a prompt."""
        chosen = self.base | {label: self.drawn[label] for label in map(count_of_steps, step_counts)}
        return {label: images[:: self.args.num_validation_images] for label, images in chosen.items()}

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw inside the block; afterwards training goes on as if there had been none."""
        model = self.family.denoiser(self.pipeline)
        with self.with_encoders(), autocast(self.accelerator), aside_from_training(model, self.accelerator.device):
            yield

    def _pipeline(self, components: dict[str, Any] | None = None) -> DiffusionPipeline:
        pipeline = self.family.assemble(self.pipeline, components)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _column(self, pipeline: DiffusionPipeline, num_inference_steps: int) -> list[Image.Image]:
        """The pictures of each prompt in turn; the i-th of every prompt is drawn from the same noise."""
        args = self.args
        rows = [
            draw_row(pipeline, args.validation_prompts or [], num_inference_steps, args.seed + i, **self.options)
            for i in range(args.num_validation_images)
        ]
        return [image for images in zip(*rows) for image in images]


def grid_path(output_dir: str | Path, step: int) -> Path:
    """Where the grid of a step is."""
    return Path(output_dir) / FOLDER / f"step-{step:06d}.png"


def save_validation_grid(output_dir: str | Path, step: int, grid: Image.Image) -> Path:
    """Write a grid under `output_dir/validation/` and return its path."""
    path = grid_path(output_dir, step)
    write_file(path, grid.save)
    return path
