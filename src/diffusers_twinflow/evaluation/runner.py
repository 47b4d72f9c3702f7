"""Run an evaluation: generate the images of all rows, score them and write the results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..image_files import as_rgb, decode_image
from ..pipelines.bare_base import base_options
from ..writing import make_folder, recover, write_file
from .building import build_metrics
from .checks import images_in
from .drawing import Batch, Place, draw, pixels_of, places, sampled_with
from .metrics import FrechetDistance, Metric
from .plan import EvaluationPlan
from .processes import gather, share_of
from .report import write_report
from .results import IMAGES_FOLDER, Results, RowResult, delete_results, start_results
from .rows import BASE, Row
from .settings import library_versions
from .stock_schedulers import stock_scheduler
from .subjects import Subject

logger = get_logger(__name__)

GRID_PROMPTS = 8
"""Number of prompts whose first image is saved for the image grid."""
REFUSALS = (AttributeError, NotImplementedError, TypeError, ValueError)
"""Errors of pipelines that do not fit a stock scheduler."""


class Evaluation:
    """Generates and scores the images of all rows of a plan. All processes of the accelerator share the prompts.

    Results that are in the output folder already are not measured again.

    Args:
        plan: the plan.
        accelerator: the processes.

    Attributes:
        results: the results so far.

    Raises:
        TwinFlowConfigError: if the output folder has results of another plan, or there are more processes than prompts.

    Examples:
        >>> evaluation = Evaluation(plan_evaluation(args, repository, config), Accelerator())
        >>> evaluation.run(evaluation.build_metrics(), LoraSubject(pipeline))
        >>> evaluation.write_report()
    """

    def __init__(self, plan: EvaluationPlan, accelerator: Accelerator) -> None:
        if accelerator.num_processes > len(plan.prompts):
            raise TwinFlowConfigError(
                f"The number of processes ({accelerator.num_processes}) is larger than the number of prompts "
                f"({len(plan.prompts)}): start at most one process per prompt."
            )
        self.plan, self.args, self.accelerator = plan, plan.args, accelerator
        self.directory = Path(plan.args.output_dir)
        if accelerator.is_main_process:
            make_folder(self.directory)
            recover(self.directory)
            if plan.args.restart:
                delete_results(self.directory)
        accelerator.wait_for_everyone()
        self.results = start_results(self.directory, dict(plan.settings), library_versions())
        self.open_rows = [row for row in plan.rows if row not in self.results.rows]
        share = share_of(accelerator, len(plan.prompts))
        self.places = places(share, plan.args.images_per_prompt, plan.seed)
        grid_places = places(range(min(GRID_PROMPTS, len(plan.prompts))), plan.args.images_per_prompt, plan.seed)
        self.grid_places = [place for place in grid_places if place.number == 0]

    @property
    def open_images(self) -> int:
        """Number of images that this process still has to generate."""
        return len(self.open_rows) * len(self.places)

    def build_metrics(self) -> list[Metric]:
        """Load the metrics that the options name, see `build_metrics`."""
        return build_metrics(self.args, self.plan.prompts, gather, is_shared=self.accelerator.num_processes > 1)

    def run(
        self,
        metrics: Sequence[Metric],
        subject: Subject,
        call_options: Mapping[str, Any] | None = None,
        on_images: Callable[[int], object] = lambda count: None,
    ) -> Results:
        """Generate and score the images of the rows that are not finished, and write `scores.json` after each of them.

        Args:
            metrics: the metrics. A `FrechetDistance` gets its reference images here.
            subject: the distilled model and its base.
            call_options: arguments of every call, such as `height`.
            on_images: called with the number of images that this process has just finished.

        Returns:
            The results of all rows.
        """
        frechet = [metric for metric in metrics if isinstance(metric, FrechetDistance)]
        for metric in metrics:
            metric.to(self.accelerator.device)
        if frechet and self.open_rows:
            self._add_reference(frechet)
        options = dict(call_options or {})
        of_base = options | base_options(subject.pipeline, self.args.base_guidance)
        groups = (
            (True, subject.base, of_base),
            (False, lambda: nullcontext(subject.pipeline), options),
        )
        for is_base, pipelines, arguments in groups:
            rows = [row for row in self.open_rows if (row.model == BASE) == is_base]
            if rows:
                with pipelines() as pipeline:
                    for row in rows:
                        self._finish(self._measure(pipeline, row, metrics, arguments, on_images))
        self.open_rows = []
        return self.results

    def write_report(self) -> list[Path]:
        """Write the table, the curves and the image grid in the main process. Returns the paths of all results."""
        if not self.accelerator.is_main_process:
            return []
        drawn = [row for row in self.plan.rows if self.results.rows[row].error is None]
        images = {row: [self.image_path(row, place) for place in self.grid_places] for row in drawn}
        prompts = [self.plan.prompts[place.prompt].prompt for place in self.grid_places]
        return [
            self.results.save(self.directory),
            *write_report(self.directory, self.results, self.plan.rows, images, prompts),
        ]

    def image_path(self, row: Row, place: Place) -> Path:
        """Return the path of a saved image."""
        return self.directory / IMAGES_FOLDER / row.folder / place.file_name

    def _is_reference(self, row: Row) -> bool:
        """Whether the images of a row are the reference of a Fréchet distance."""
        return self.args.needs_base_reference and row == self.plan.rows[0]

    def _add_reference(self, frechet: Sequence[FrechetDistance]) -> None:
        """Add the reference images that exist before the images of a row are generated."""
        base = self.plan.rows[0]
        if self.args.reference_images is not None:
            paths = images_in(self.args.reference_images)
            chosen = [paths[i] for i in share_of(self.accelerator, len(paths))]
        elif base in self.results.rows:
            chosen = [self.image_path(base, place) for place in self.places]
        else:
            return
        for path in chosen:
            try:
                pixels = pixels_of([as_rgb(decode_image(path))])
            except (OSError, ValueError) as error:
                raise TwinFlowConfigError(
                    f"The reference image '{path}' cannot be read ({error}): remove it, or use `restart` if the "
                    "evaluation wrote it."
                ) from error
            for metric in frechet:
                metric.add_reference(pixels.to(self.accelerator.device))

    def _measure(
        self,
        pipeline: DiffusionPipeline,
        row: Row,
        metrics: Sequence[Metric],
        call_options: Mapping[str, Any],
        on_images: Callable[[int], object],
    ) -> RowResult:
        seconds: list[float] = []
        is_reference = self._is_reference(row)
        try:
            for chosen, batch in self._draw(pipeline, row, call_options):
                seconds.append(batch.seconds / len(chosen))
                self._save(row, chosen, batch, everything=is_reference or self.args.save_images)
                prompts = [self.plan.prompts[place.prompt] for place in chosen]
                pixels = batch.pixels.to(self.accelerator.device)
                for metric in metrics:
                    if is_reference and isinstance(metric, FrechetDistance):
                        metric.add_reference(pixels)
                    else:
                        metric.update(pixels, prompts)
                on_images(len(chosen))
        except _Refused as refused:
            error = f"{type(refused.error).__name__}: {refused.error}"
            logger.warning(f"'{row.label}' cannot be generated: {error}")
            on_images(len(self.places))
            return RowResult(row, device=self._device(), error=error)
        scores: dict[str, float] = {}
        for metric in metrics:
            if not (is_reference and isinstance(metric, FrechetDistance)):
                scores |= metric.compute()
            metric.reset()
        # the first call also compiles and allocates
        return RowResult(row, scores, median(gather(seconds[1:] or seconds)), self._device(), self.args.batch_size)

    def _draw(
        self, pipeline: DiffusionPipeline, row: Row, call_options: Mapping[str, Any]
    ) -> Iterator[tuple[Sequence[Place], Batch]]:
        """Generate this process's images of a row in batches."""
        with _refusals(is_expected=row.scheduler is not None):
            scheduler = stock_scheduler(row.scheduler, pipeline.scheduler) if row.scheduler else None
        with sampled_with(pipeline, scheduler):
            for start in range(0, len(self.places), self.args.batch_size):
                chosen = self.places[start : start + self.args.batch_size]
                prompts = [self.plan.prompts[place.prompt].prompt for place in chosen]
                seeds = [place.seed for place in chosen]
                with _refusals(is_expected=row.scheduler is not None and start == 0):
                    batch = draw(pipeline, prompts, seeds, row.steps, **call_options)
                yield chosen, batch

    def _save(self, row: Row, chosen: Sequence[Place], batch: Batch, *, everything: bool) -> None:
        for place, image in zip(chosen, batch.images, strict=True):
            if everything or place in self.grid_places:
                write_file(self.image_path(row, place), image.convert("RGB").save)

    def _finish(self, result: RowResult) -> None:
        """Record a finished row. Its images are complete in all processes before."""
        self.accelerator.wait_for_everyone()
        self.results.rows[result.row] = result
        if self.accelerator.is_main_process:
            self.results.save(self.directory)

    def _device(self) -> str:
        device = self.accelerator.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class _Refused(Exception):
    """Carries the error of a pipeline that does not fit a stock scheduler."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _refusals(is_expected: bool) -> Iterator[None]:
    """Turn errors of a call into `_Refused`, if the pipeline may not fit its scheduler."""
    try:
        yield
    except REFUSALS as error:
        if not is_expected:
            raise
        raise _Refused(error) from error
