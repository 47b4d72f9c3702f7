"""What a run would cost: a step of each kind and one picture, measured, and nothing of it kept."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch

from ..hub.repository import TwinFlowRepositoryConfig
from ..methods.twinflow.branches import Branch, BranchRotation
from ..writing import write_text
from .trackers import GIB, peak_memory

FILE_NAME = "dry_run.json"
MIXED_STEPS = 2


def positions_of(rotation: BranchRotation, branch: Branch, number: int) -> list[int]:
    """The first `number` positions of a run whose samples that branch trains."""
    return list(islice((position for position in count() if rotation.at([position]) == [branch]), number))


class DryRun:
    """Takes the steps of a run that has been prepared, and reports time and memory.

    Args:
        run: what the training script prepared.
        take_step: trains one step on a list of micro-batches.
        described: what `twinflow_config.json` would say of the weights.
    """

    def __init__(self, run: Any, take_step: Callable[[list[dict]], None], described: TwinFlowRepositoryConfig):
        self.run, self.take_step, self.described = run, take_step, described
        self.device = run.accelerator.device

    def measure(self) -> dict[str, Any]:
        """Seconds and peak GiB of a step of each kind and of a picture, after one to warm up; hours of the whole run."""
        run = self.run
        batches = list(islice(run.loader, run.args.gradient_accumulation_steps))
        kinds = dict(self._kinds(batches))
        self.take_step(batches)
        steps = {name: self._timed(lambda chosen=chosen: self.take_step(chosen)) for name, chosen in kinds.items()}
        for _ in range(MIXED_STEPS):
            steps["mixed"] = self._timed(lambda: self.take_step(batches))
        picture = self._timed(self._draw_picture)
        step_count = run.schedule.total_steps - run.schedule.first_step
        parameters = list(run.family.denoiser(run.pipeline).parameters())
        return {
            "device": str(self.device),
            "processes": run.accelerator.num_processes,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "parameters_trained": sum(parameter.numel() for parameter in run.trainable),
            "samples_a_step": run.schedule.step_samples,
            "steps": step_count,
            "step_of_each_kind": steps,
            "picture": picture,
            "hours": steps["mixed"]["seconds"] * step_count / 3600,
        }

    def _kinds(self, batches: list[dict]) -> Iterator[tuple[str, list[dict]]]:
        """The batches, once for each branch with positions that are all that branch's."""
        rotation = self.run.compute_loss.rotation
        for branch in rotation.fractions if rotation else ():
            positions = positions_of(rotation, branch, len(batches[0]["position"]))
            yield branch.value, [batch | {"position": positions} for batch in batches]

    def _draw_picture(self) -> None:
        run = self.run
        prompt = run.args.validation_prompts[0] if run.args.validation_prompts else ""
        with run.validation.trained_pipeline(run.average, self.described) as (pipeline, steps):
            generator = torch.Generator("cpu").manual_seed(run.args.seed)
            options = {"num_inference_steps": steps, "generator": generator, **run.validation.options}
            run.family.draw(pipeline, [prompt], **options)

    def _timed(self, work: Callable[[], None]) -> dict[str, float]:
        module = None if self.device.type == "cpu" else torch.get_device_module(self.device)
        if module is not None:
            module.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        work()
        if module is not None:
            module.synchronize(self.device)
        return {"seconds": time.perf_counter() - start, "memory_gib": peak_memory(self.device) / GIB}


def save_report(report: dict[str, Any], output_dir: str | Path) -> Path:
    """Write the report and return its path."""
    path = Path(output_dir) / FILE_NAME
    write_text(path, json.dumps(report, indent=2) + "\n")
    return path


def format_report(report: dict[str, Any]) -> str:
    """The report as lines for a terminal."""
    lines = [
        f"dry run on {report['device']} x {report['processes']}: "
        f"{report['parameters_trained']:,} of {report['parameters']:,} parameters train, "
        f"{report['samples_a_step']} samples a step"
    ]
    for name, cost in {**report["step_of_each_kind"], "picture": report["picture"]}.items():
        lines.append(f"  {name:<12} {cost['seconds']:8.3f} s  {cost['memory_gib']:7.2f} GiB")
    lines.append(f"{report['steps']} steps take about {report['hours']:.2f} hours, without validation and checkpoints")
    return "\n".join(lines)
