"""Write the report of the demo: targets, measurements and the environment."""

import datetime
import json
import operator
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("diffusers-twinflow", "torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "mlxtend")
COMPARISONS = {"at most": operator.le, "at least": operator.ge}


def target(name: str, comparison: str, bound: float, measured: float) -> dict[str, object]:
    """Compare a measurement with a target. `comparison` is "at most" or "at least"."""
    reached = bool(COMPARISONS[comparison](measured, bound))
    return {"name": name, "target": f"{comparison} {bound:.6g}", "measured": measured, "reached": reached}


def targets(
    base: dict, one_step: dict, held_out_accuracy: float, seconds: dict[str, float], difference: float
) -> list[dict[str, object]]:
    """Return the targets of the demo on two CPU cores. `base` and `one_step` are rows of scores."""
    return [
        target("judge's held-out accuracy", "at least", 0.97, held_out_accuracy),
        target(
            "TwinFlow 1 step: agreement (the base's, less 2 points)",
            "at least",
            base["agreement"] - 0.02,
            one_step["agreement"],
        ),
        target(
            "TwinFlow 1 step: Frechet distance (1.5 times the base's)",
            "at most",
            1.5 * base["frechet_distance"],
            one_step["frechet_distance"],
        ),
        target("training, seconds", "at most", 300, seconds["training"]),
        target("whole demo, seconds", "at most", 420, seconds["total"]),
        target("largest difference when drawn in a new process", "at most", 1e-5, difference),
    ]


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, object]:
    return {
        "versions": {package: installed_version(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "date": datetime.date.today().isoformat(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
    }


def format_targets(rows: list[dict[str, object]]) -> str:
    return "\n".join(
        f"{'reached' if row['reached'] else 'MISSED ':<8} {row['name']}: {row['measured']:.6g} (target: {row['target']})"
        for row in rows
    )


def write_report(report: dict[str, object], path: str | Path) -> None:
    Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
