"""Measure the time and memory of a run with one step of each kind and one image, without changing anything."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.batches import Batch
from ..writing import write_text
from .tracking import GIB, peak_memory, reset_peak_memory

if TYPE_CHECKING:
    from .trainer import Trainer

FILE_NAME = "dry_run.json"
MIXED_STEPS = 2


def positions_of(branch_cycle: Sequence[str], branch: str, number: int) -> list[int]:
    """Return the first `number` positions of a run whose samples are trained by a branch."""
    names = enumerate(cycle(branch_cycle))
    return list(islice((position for position, name in names if name == branch), number))


class DryRun:
    """Runs a few steps of a prepared run and reports time and memory.

    Args:
        trainer: trainer after `prepare`.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.device = trainer, trainer.accelerator.device

    def measure(self) -> dict[str, Any]:
        """Measure each kind of step and one image after a warm-up.

        Returns:
            A report with seconds and peak memory in GiB for each, and the estimated hours of the whole run.
        """
        trainer = self.trainer
        batches = list(islice(trainer.loader, trainer.arguments.gradient_accumulation_steps))
        kinds = dict(self._kinds(batches))
        self._take_step(batches)
        steps = {name: self._timed(partial(self._take_step, chosen)) for name, chosen in kinds.items()}
        for _ in range(MIXED_STEPS):
            steps["mixed"] = self._timed(lambda: self._take_step(batches))
        image = self._timed(self._draw_image)
        step_count = trainer.schedule.total_steps - trainer.schedule.first_step
        parameters = list(trainer.transformer.parameters())
        return {
            "device": str(self.device),
            "processes": trainer.accelerator.num_processes,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "parameters_trained": sum(parameter.numel() for parameter in trainer.trainable),
            "samples_per_step": trainer.schedule.step_samples,
            "steps": step_count,
            "step_of_each_kind": steps,
            "image": image,
            "hours": steps["mixed"]["seconds"] * step_count / 3600,
        }

    def _take_step(self, batches: list[Batch]) -> None:
        self.trainer.begin_step()
        for batch in batches:
            self.trainer.train_micro_batch(batch)

    def _kinds(self, batches: list[Batch]) -> Iterator[tuple[str, list[Batch]]]:
        """Yield the batches once per branch, with positions that all belong to this branch."""
        branch_cycle = self.trainer.method.branch_cycle
        for branch in [name for name in self.trainer.method.branch_names if name in branch_cycle]:
            positions = positions_of(branch_cycle, branch, len(batches[0]["position"]))
            yield branch, [batch | {"position": positions} for batch in batches]

    def _draw_image(self) -> None:
        trainer = self.trainer
        args, described = trainer.arguments, trainer.describe(trainer.schedule.first_step)
        prompt = args.validation_prompts[0] if args.validation_prompts else ""
        with trainer.validation.trained_pipeline(trainer.average, described) as (pipeline, steps):
            generator = torch.Generator("cpu").manual_seed(args.seed)
            options = {"num_inference_steps": steps, "generator": generator, **trainer.validation.options}
            trainer.family.draw(pipeline, [prompt], **options)

    def _timed(self, work: Callable[[], None]) -> dict[str, float]:
        reset_peak_memory(self.device)
        start = time.perf_counter()
        work()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return {"seconds": time.perf_counter() - start, "memory_gib": peak_memory(self.device) / GIB}


def save_report(report: dict[str, Any], output_dir: str | Path) -> Path:
    """Write the report and return its path."""
    path = Path(output_dir) / FILE_NAME
    write_text(path, json.dumps(report, indent=2) + "\n")
    return path


def format_report(report: dict[str, Any]) -> str:
    """Format the report as lines for a terminal."""
    lines = [
        f"dry run on {report['processes']} process{'es' * (report['processes'] > 1)} ({report['device']}): "
        f"{report['parameters_trained']:,} of {report['parameters']:,} parameters are trained, "
        f"{report['samples_per_step']} samples per step"
    ]
    for name, cost in {**report["step_of_each_kind"], "one image": report["image"]}.items():
        lines.append(f"  {name:<12} {cost['seconds']:8.3f} s  {cost['memory_gib']:7.2f} GiB")
    lines.append(f"{report['steps']} steps take about {report['hours']:.2f} hours, without validation and checkpoints")
    return "\n".join(lines)
