"""Measure the rows of the report: the base with many samplers, and each distilled model at few steps."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from .prompts import Evaluation
from .sampling import STOCK_SCHEDULERS, Sampler, load_base, load_distilled, stock_call, twinflow_scheduler
from .scores import Scorer
from .settings import Settings
from .timing import synchronize
from .variants import Variant

PRINTED = ("frechet_distance", "agreement", "diversity", "distance_to_base", "seconds")
PICTURES = 12
PICTURED_STEPS = (1, 2, 4)


def measured(row: dict, draw: Callable[[], torch.Tensor], scorer: Scorer) -> tuple[dict, torch.Tensor | None]:
    """Return a row with its scores, and the images. If it fails, the row has an `error`."""
    start, described = time.perf_counter(), ", ".join(f"{name} {value}" for name, value in row.items())
    try:
        images = draw()
        synchronize()
        row = row | {"seconds": time.perf_counter() - start} | scorer.score(images)
        print(f"{described}: " + ", ".join(f"{name} {row[name]:.3f}" for name in PRINTED if name in row), flush=True)
        return row, images
    except Exception:
        print(f"FAILED {row}: {traceback.format_exc()[-1500:]}", flush=True)
        return row | {"error": traceback.format_exc()}, None


def reference_rows(base, sampler: Sampler, scorer: Scorer, settings: Settings) -> list[dict]:
    """Measure the base at many evaluations: several guidance scales, and twice the steps without guidance."""
    tried = [(scale, settings.base_steps) for scale in settings.guidance_scales] + [(1.0, 2 * settings.base_steps)]
    rows = []
    for scale, steps in tried:
        row = base_row("FlowMatchEuler", steps, scale)
        rows.append(measured(row, lambda steps=steps, scale=scale: sampler.draw(base, steps, scale), scorer)[0])
    return rows


def base_row(scheduler: str, steps: int, guidance_scale: float) -> dict:
    evaluations = steps if guidance_scale <= 1 else 2 * steps
    return {
        "variant": "base",
        "scheduler": scheduler,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "evaluations": evaluations,
    }


def choose_reference(rows: list[dict], settings: Settings) -> dict:
    """Return the best of the rows with twice `base_steps` evaluations."""
    dear = [row for row in rows if row["evaluations"] == 2 * settings.base_steps and "error" not in row]
    return min(dear, key=lambda row: row["frechet_distance"])


def stock_rows(base, sampler: Sampler, scorer: Scorer, settings: Settings, guidance_scale: float) -> list[dict]:
    """Measure the base at few steps with stock schedulers, without guidance and with the reference's guidance, if any."""
    rows = []
    for name, build in STOCK_SCHEDULERS.items():
        for scale in sorted({1.0, guidance_scale}):
            for steps in settings.few_steps:
                row = base_row(name, steps, scale)
                row, _ = measured(
                    row,
                    lambda steps=steps, scale=scale, build=build: sampler.draw(base, steps, scale, build()),
                    scorer,
                )
                rows.append(row)
    return rows


def score_variant(
    variant: Variant,
    folder: Path,
    train_steps: int,
    *,
    base: Path,
    sampler: Sampler,
    scorer: Scorer,
    settings: Settings,
) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Return the rows of a trained variant, and images by step count."""
    pipeline = load_distilled(folder, base, sampler.device)
    rows, pictures = [], {}
    for style in ("few", *variant.styles):
        for steps in settings.few_steps:
            row = {
                "variant": variant.name,
                "train_steps": train_steps,
                "style": style,
                "steps": steps,
                "evaluations": steps,
            }
            scheduler = twinflow_scheduler(pipeline, style, **variant.scheduler)
            row, images = measured(
                row,
                lambda steps=steps, scheduler=scheduler: sampler.draw(pipeline, steps, scheduler=scheduler),
                scorer,
            )
            rows.append(row)
            if style == "few" and steps in PICTURED_STEPS and images is not None:
                pictures[str(steps)] = images
    if variant.options["train_type"] == "lora":
        scheduler, sigmas_of = stock_call(pipeline)
        stock = load_base(base, sampler.device)
        stock.load_lora_weights(folder)
        stock.fuse_lora()
        for steps in PICTURED_STEPS:
            row = {"variant": variant.name, "train_steps": train_steps, "style": "stock pipeline", "steps": steps}
            row, _ = measured(
                row | {"evaluations": steps},
                lambda steps=steps: sampler.draw(stock, steps, scheduler=scheduler, sigmas=sigmas_of[steps]),
                scorer,
            )
            rows.append(row)
    return rows, pictures


def score_control(
    variant: Variant, folder: Path, train_steps: int, *, sampler: Sampler, scorer: Scorer, reference: dict
) -> list[dict]:
    """Return the row of a base that was trained further, sampled like the reference."""
    pipeline, steps = load_base(folder, sampler.device), reference["steps"]
    row = {"variant": variant.name, "train_steps": train_steps, "style": "FlowMatchEuler", "steps": steps}
    row |= {"guidance_scale": reference["guidance_scale"], "evaluations": reference["evaluations"]}
    return [measured(row, lambda: sampler.draw(pipeline, steps, reference["guidance_scale"]), scorer)[0]]


def save_pictures(pictures: dict[str, torch.Tensor], path: Path) -> None:
    """Save the first images of each set, in 8 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        name: (images[:PICTURES] * 255).round().to(torch.uint8).cpu().contiguous() for name, images in pictures.items()
    }
    save_file(kept, str(path))


def pictured_prompts(evaluation: Evaluation) -> list[str]:
    return evaluation.prompts[:PICTURES]
