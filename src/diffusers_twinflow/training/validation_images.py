"""Generate images with a model during training, from the same noise every time."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..families import Family
from ..hub.repository import TwinFlowRepositoryConfig
from ..hub.sample_images import count_of_steps, draw_row
from ..hub.stock_pipelines import assemble
from ..image_files import load_image
from ..methods.base import AveragedWeights
from ..methods.rng_snapshot import RNGSnapshot
from ..models import without_targets
from ..pipelines import as_twinflow_pipeline
from ..writing import write_file
from .arguments import TrainingArguments
from .distributed import autocast

logger = get_logger(__name__)

FOLDER = "validation"
Columns = dict[str, list[Image.Image]]


@contextmanager
def aside_from_training(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model into evaluation mode. Afterwards restore its mode and the global random generators."""
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
    """Return the pipeline's components with the weights that the run would save now.

    Args:
        average: averaged weights, or `None` if there are none.
        save_ema: use the EMA weights instead of the last weights.
    """
    components = dict(pipeline.components)
    if average is None or not save_ema:
        yield components
        return
    with average.activated():
        yield components | family.components_of(average.transformer)


class Validation:
    """Generates the validation images in columns that all start from the same noise.

    With TwinFlow there is one column per step count, sampled with `TwinFlowScheduler` without guidance. Without
    TwinFlow there is one column, sampled with the stock pipeline. The first column is the base with many steps, from
    before training. All processes generate images, because a sharded model needs all of them.

    Args:
        args: options of the run.
        uses_twinflow: whether the trained model has a target time.
        with_encoders: context in which the pipeline's other networks are on the device.
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
            self.options[family.image_argument] = load_image(args.validation_image, option="validation_image")
        if args.num_frames:
            self.options["num_frames"] = args.num_frames
        self.base: Columns = {}
        self.drawn: Columns = {}

    def draw_base(self) -> None:
        """Generate the column of the base. Call it before anything is trained or resumed."""
        steps = self.stock_steps if self.args.validation_base_steps is None else self.args.validation_base_steps
        if self.args.validation_prompts and steps:
            count = len(self.args.validation_prompts) * self.args.num_validation_images
            logger.info(
                f"generating {count} validation image{'s' * (count != 1)} with the base, {count_of_steps(steps)} each"
            )
            with self.drawing(), without_targets(*self.family.denoisers(self.pipeline).values()):
                self.base = {f"base, {count_of_steps(steps)}": self._column(self._pipeline(), steps)}

    def draw(
        self,
        average: AveragedWeights | None,
        step_counts: Sequence[int],
        described: TwinFlowRepositoryConfig,
    ) -> Columns:
        """Generate the columns with the weights that would be saved now.

        Args:
            average: the EMA weights, or `None`.
            described: contents of `twinflow_config.json` for the weights.

        Returns:
            The columns by label, the base first.
        """
        with self.trained_pipeline(average, described) as (pipeline, steps):
            if self.uses_twinflow:
                self.drawn = {count_of_steps(steps): self._column(pipeline, steps) for steps in step_counts}
            else:
                self.drawn = {f"trained, {count_of_steps(steps)}": self._column(pipeline, steps)}
        return self.base | self.drawn

    @contextmanager
    def trained_pipeline(
        self, average: AveragedWeights | None, described: TwinFlowRepositoryConfig
    ) -> Iterator[tuple[DiffusionPipeline, int]]:
        """Build a pipeline with the weights that would be saved, and return it with its step counts.

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
        """Return the column of the base and the latest columns of some step counts, with one image per prompt."""
        chosen = self.base | {label: self.drawn[label] for label in map(count_of_steps, step_counts)}
        return {label: images[:: self.args.num_validation_images] for label, images in chosen.items()}

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Set the model up to generate images inside the `with` block, and restore the training state afterwards."""
        model = self.family.network(self.pipeline)
        with self.with_encoders(), autocast(self.accelerator), aside_from_training(model, self.accelerator.device):
            yield

    def _pipeline(self, components: dict[str, Any] | None = None) -> DiffusionPipeline:
        pipeline = assemble(self.family, self.pipeline, components)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _column(self, pipeline: DiffusionPipeline, num_inference_steps: int) -> list[Image.Image]:
        """Generate the images of all prompts. The i-th image of every prompt starts from the same noise."""
        args = self.args
        rows = [
            draw_row(pipeline, args.validation_prompts or [], num_inference_steps, args.seed + i, **self.options)
            for i in range(args.num_validation_images)
        ]
        return [image for images in zip(*rows) for image in images]


def grid_path(output_dir: str | Path, step: int) -> Path:
    """Return the path of the validation grid of a step."""
    return Path(output_dir) / FOLDER / f"step-{step:06d}.png"


def save_validation_grid(output_dir: str | Path, step: int, grid: Image.Image) -> Path:
    """Save a grid in `output_dir/validation/` and return its path."""
    path = grid_path(output_dir, step)
    write_file(path, grid.save)
    return path
