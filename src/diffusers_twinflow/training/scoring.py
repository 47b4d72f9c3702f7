"""Score the images of a model during training, with local models or with the user's own function."""

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from ..configuration import TwinFlowConfig, TwinFlowConfigError
from ..data import Samples
from ..data.latents import MIDDLE
from ..evaluation.metrics import FrechetDistance, Judge, JudgeScore, Metric, PromptScore
from ..evaluation.models import ImageFeatures, PromptModel
from ..evaluation.plugins import load_function
from ..evaluation.prompts import EvaluationPrompt
from ..families import Family
from ..hub.repository import TwinFlowRepositoryConfig
from ..methods.base import AveragedWeights
from ..writing import write_text
from .arguments import TrainingArguments
from .validation_images import Validation

logger = get_logger(__name__)

FRECHET, PROMPT, JUDGE = "frechet_distance", "prompt_score", "judge"
FILE_NAME = "scores.json"


def check_scores(args: TrainingArguments, config: TwinFlowConfig) -> None:
    """Check the score options before anything is loaded.

    Raises:
        TwinFlowConfigError: if the scores cannot be measured with these options.
    """
    given = [name for name in ("frechet_model", "prompt_score_model", "judge") if getattr(args, name)]
    if not args.score_steps:
        if given or args.early_stopping_patience:
            raise TwinFlowConfigError(f"`{(given or ['early_stopping_patience'])[0]}` needs `score_steps`: set it.")
        return
    if not given:
        raise TwinFlowConfigError("`score_steps` needs `frechet_model`, `prompt_score_model` or `judge`: give one.")
    if args.streaming:
        raise TwinFlowConfigError("`score_steps` takes prompts from data of known size: leave `streaming` out.")
    if args.frechet_model and config.twinflow_image_free:
        raise TwinFlowConfigError(
            "`frechet_model` compares with the data's images, which `twinflow_image_free` does not read. Leave it out."
        )
    if args.frechet_model and args.num_frames:
        raise TwinFlowConfigError(
            f"`frechet_model` compares images, but with num_frames={args.num_frames} the data are videos. Leave it out."
        )
    for name in ("frechet_model", "prompt_score_model"):
        directory = getattr(args, name)
        if directory and importlib.util.find_spec("torchmetrics") is None:
            raise TwinFlowConfigError(f"`{name}` needs a package that is not installed: pip install torchmetrics.")
        if directory and not (Path(directory) / "config.json").is_file():
            raise TwinFlowConfigError(
                f"{name}='{directory}' is not the folder of a transformers model. Models for scores are not downloaded: "
                "give a folder on this machine."
            )
    if args.judge:
        load_function(args.judge, "judge")


class Scores:
    """Generates images for captions of the data in all processes, and scores them in the main process.

    Args:
        args: arguments of the run.
        judge: the user's score function, or `None`.
        samples: data that the captions and the reference images of the Fréchet distance come from.
    """

    def __init__(
        self,
        args: TrainingArguments,
        family: Family,
        accelerator: Accelerator,
        validation: Validation,
        samples: Samples,
        judge: Judge | None,
    ) -> None:
        self.args, self.family, self.accelerator, self.validation = args, family, accelerator, validation
        self.samples, self.judge = samples, judge
        count = -(-args.num_score_images // accelerator.num_processes) * accelerator.num_processes
        self.rows = spread(range(len(samples.checked.rows)), count)
        self.prompts = [samples.checked.facts[row]["captions"][0] for row in self.rows]
        self.metrics: list[Metric] = self._build_metrics() if accelerator.is_main_process else []

    def _build_metrics(self) -> list[Metric]:
        metrics: list[Metric] = []
        if self.args.frechet_model:
            frechet = FrechetDistance(ImageFeatures(self.args.frechet_model, local_files_only=True), name=FRECHET)
            for row in self.rows:
                frechet.add_reference(self._real_image(row))
            metrics.append(frechet)
        if self.args.prompt_score_model:
            model = PromptModel.load(self.args.prompt_score_model, local_files_only=True)
            metrics.append(PromptScore(model, name=PROMPT))
        if self.judge is not None:
            metrics.append(JudgeScore(self.judge, name=JUDGE))
        return metrics

    def _real_image(self, row: int) -> torch.Tensor:
        image, framing = self.samples.image(row), self.samples.framing
        if isinstance(image, list) or framing is None:
            raise TwinFlowConfigError("`frechet_model` compares images, and the data has none: leave it out.")
        pixels = framing.pixels(image, framing.bucket_of(*image.size), MIDDLE)
        return ((pixels + 1) * 127.5).round().to(torch.uint8)[None]

    def measure(self, average: AveragedWeights | None, described: TwinFlowRepositoryConfig) -> dict[str, float]:
        """Measure the scores by name. All processes must call it and get the same scores.

        Args:
            average: the EMA weights, or `None`.
            described: contents of `twinflow_config.json` for the weights.
        """
        with self.validation.trained_pipeline(average, described) as (pipeline, steps):
            images = self.accelerator.gather(self._draw(pipeline, steps))
        scores = [self._judge(images) if self.accelerator.is_main_process else None]
        return broadcast_object_list(scores)[0]

    def _draw(self, pipeline: DiffusionPipeline, num_inference_steps: int) -> torch.Tensor:
        """Generate this process's share of the images from fixed noise. Returns uint8 of shape [n, 3, H, W]."""
        share = range(self.accelerator.process_index, len(self.prompts), self.accelerator.num_processes)
        images: list[Image.Image] = []
        for start in range(0, len(share), self.args.train_batch_size):
            chosen = share[start : start + self.args.train_batch_size]
            images += self.family.draw(
                pipeline,
                [self.prompts[i] for i in chosen],
                num_inference_steps=num_inference_steps,
                generator=[torch.Generator("cpu").manual_seed(self.args.seed + i) for i in chosen],
                **self.validation.options,
            )
        arrays = [np.asarray(image.convert("RGB")) for image in images]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().to(self.accelerator.device)

    def _judge(self, images: torch.Tensor) -> dict[str, float]:
        processes = self.accelerator.num_processes
        prompts = [EvaluationPrompt(prompt) for rank in range(processes) for prompt in self.prompts[rank::processes]]
        scores: dict[str, float] = {}
        for metric in self.metrics:
            metric.to(images.device)
            metric.update(images, prompts)
            scores |= metric.compute()
            metric.reset()
            metric.to("cpu")
        return scores


class ScoreBook:
    """Records the scores of a run in `scores.json`, finds the best, and tells when to stop.

    Args:
        directory: folder of the file.
        metric: name of the score that decides. Defaults to the first score.
        higher_is_better: whether a higher score is better. `None` means: lower for a Fréchet distance, else higher.
        patience: stop after this many scores in a row that do not improve on the best. `None` never stops.
        first_step: step that the run resumes from. Scores of later steps in the file are dropped.
    """

    def __init__(
        self,
        directory: str | Path,
        metric: str | None = None,
        higher_is_better: bool | None = None,
        patience: int | None = None,
        first_step: int = 0,
    ) -> None:
        self.path, self.metric, self.higher_is_better = Path(directory) / FILE_NAME, metric, higher_is_better
        self.patience = patience
        self.entries: list[dict[str, float]] = [entry for entry in self._read() if entry["step"] <= first_step]

    def _read(self) -> list[dict[str, float]]:
        """Read the entries of the file. If it is damaged, warn and return none."""
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))["scores"]
            return [entry for entry in entries if isinstance(entry["step"], int)]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError) as error:
            logger.warning(f"'{self.path}' is damaged ({error}). Earlier scores are lost.")
            return []

    def has(self, step: int) -> bool:
        """Return whether the scores of a step are recorded."""
        return any(entry["step"] == step for entry in self.entries)

    def add(self, step: int, scores: dict[str, float]) -> bool:
        """Record the scores of a step.

        Returns:
            Whether they are the best so far.

        Raises:
            TwinFlowConfigError: if `metric` is not among the scores.
        """
        self._value(scores)
        self.entries.append({"step": step} | scores)
        return self.best["step"] == step

    @property
    def best(self) -> dict[str, float]:
        """Return the entry with the best score. If several are equal, return the first."""
        return max(self.entries, key=self._value)

    @property
    def last(self) -> dict[str, float]:
        """Return the scores of the last entry by name, or an empty dictionary if there is no entry."""
        return {name: value for name, value in self.entries[-1].items() if name != "step"} if self.entries else {}

    @property
    def is_over(self) -> bool:
        """Return whether the run should stop because the scores no longer improve."""
        if self.patience is None or not self.entries:
            return False
        return len(self.entries) - 1 - self.entries.index(self.best) >= self.patience

    def save(self) -> None:
        """Write the file."""
        values = {"metric": self._metric(self.entries[0]), "best_step": self.best["step"], "scores": self.entries}
        write_text(self.path, json.dumps(values, indent=2) + "\n")

    def _metric(self, scores: dict[str, float]) -> str:
        return self.metric or next(name for name in scores if name != "step")

    def _value(self, scores: dict[str, float]) -> float:
        name = self._metric(scores)
        if name not in scores:
            raise TwinFlowConfigError(f"score_metric={name} is not measured. Choose one of {', '.join(scores)}.")
        is_higher = name != FRECHET if self.higher_is_better is None else self.higher_is_better
        value = float(scores[name])
        return -math.inf if math.isnan(value) else value if is_higher else -value


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """Pick `count` evenly spaced values. They are repeated if there are fewer."""
    return [values[i * len(values) // count] for i in range(count)]
