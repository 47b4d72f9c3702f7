"""The report: one JSON file, a table in Markdown, and two pictures."""

import json
from datetime import datetime, timezone
from pathlib import Path

import torch
from matplotlib.figure import Figure
from report import environment, target
from safetensors.torch import load_file

from .variants import VARIANTS

CELL_INCHES = 1.0
REFERENCES = {"full weights": "full-reference", "LoRA, rank 64": "lora-reference"}


def assemble(work_dir: Path, settings: dict, command: str) -> dict:
    """All that was measured, from what the stages left in `work_dir`."""
    base = _read(work_dir / "base_rows.json")
    paths = [work_dir / "results" / f"{variant.name}.json" for variant in VARIANTS]
    variants = [_read(path) for path in paths if path.is_file()]
    return {
        "command": command,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "settings": settings,
        "training_of_the_base": _read(work_dir / "base" / "training.json"),
        "judge": base["judge"],
        "reference": base["reference"],
        "base": base["rows"],
        "variants": variants,
        "targets": targets(base["reference"], variants),
        "seconds": {
            path.stem.removeprefix("seconds_"): _read(path) for path in sorted(work_dir.glob("seconds_*.json"))
        },
        "device": device_name(),
        **environment(),
    }


def device_name() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


def targets(reference: dict, variants: list[dict]) -> list[dict]:
    """What the benchmark set out to reach, of the reference recipes at their longest."""
    found = {v["name"]: last_rows(v) for v in variants}
    base = reference["frechet_distance"]
    full, lora = (found.get(name, {}) for name in ("full-reference", "lora-reference"))
    rows = []
    for steps, factor in ((1, 1.15), (2, 1.0)):
        if steps in full:
            rows.append(
                target(f"full, {steps}-step: {factor:g} times the base's", "at most", factor * base, full[steps])
            )
    for steps in (1, 2):
        if steps in lora:
            rows.append(target(f"LoRA, {steps}-step: 1.25 times the base's", "at most", 1.25 * base, lora[steps]))
        if steps in lora and steps in full:
            bound = 1.25 * full[steps]
            rows.append(target(f"LoRA, {steps}-step: 1.25 times the full weights'", "at most", bound, lora[steps]))
    return rows


def last_rows(variant: dict) -> dict[int, float]:
    """Frechet distance by steps, style few, after the longest training."""
    rows = [row for row in variant["rows"] if row["style"] == "few" and "frechet_distance" in row]
    longest = max((row["train_steps"] for row in rows), default=0)
    return {row["steps"]: row["frechet_distance"] for row in rows if row["train_steps"] == longest}


COLUMNS = {
    "frechet_distance": "{:.2f}",
    "frechet_names": "{:.2f}",
    "frechet_groups": "{:.2f}",
    "agreement": "{:.1%}",
    "held_out_agreement": "{:.1%}",
    "diversity": "{:.2f}",
    "distance_to_base": "{:.2f}",
}
HEADERS = ("Fréchet distance", "names", "groups", "agreement", "held out", "diversity", "to the base's")


def table(report: dict) -> str:
    """Every row, in Markdown."""
    lines = [f"| | train steps | evaluations | {' | '.join(HEADERS)} |", "|" + "---|" * (3 + len(HEADERS))]
    for row in [*report["base"], *(row for variant in report["variants"] for row in variant["rows"])]:
        if row["variant"] == "base":
            name = f"base, {row['scheduler']}, guidance {row['guidance_scale']:g}"
        else:
            name = f"{row['variant']}, {row['style']}"
        cells = [shape.format(row[key]) if key in row else "-" for key, shape in COLUMNS.items()]
        lines.append(f"| {name} | {row.get('train_steps', '-')} | {row['evaluations']} | {' | '.join(cells)} |")
    unfinished = [f"- {v['name']}: {v['state']}" for v in report["variants"] if v["state"] != "done"]
    return "\n".join([*lines, "", *unfinished]) + "\n"


def draw_grid(work_dir: Path, prompts: list[str], path: Path) -> None:
    """A row a prompt, a column a way of drawing, the same noise along each row."""
    base = load_file(str(work_dir / "pictures" / "base.safetensors"))
    columns = {f"base, {name}": base[name] for name in sorted(base, key=lambda name: -int(name.split()[0]))}
    for label, name in REFERENCES.items():
        file = work_dir / "pictures" / f"{name}.safetensors"
        drawn = load_file(str(file)) if file.is_file() else {}
        columns |= {f"{label},\n{steps} step{'s' * (steps != '1')}": drawn[steps] for steps in sorted(drawn)}
    size = (CELL_INCHES * len(columns) + 3.2, CELL_INCHES * len(prompts) + 0.6)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(len(prompts), len(columns), squeeze=False)
    for number, prompt in enumerate(prompts):
        for axes, (label, images) in zip(grid[number], columns.items()):
            axes.imshow(images[number].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if number == 0:
                axes.set_title(label, fontsize=9)
        grid[number, 0].set_ylabel(prompt, fontsize=9, rotation=0, ha="right", va="center", labelpad=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_curves(report: dict, path: Path) -> None:
    """Frechet distance against training steps, and against evaluations."""
    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    training, sampling = figure.subplots(1, 2)
    found = {variant["name"]: variant for variant in report["variants"]}
    for label, name in REFERENCES.items():
        rows = [row for row in found.get(name, {"rows": []})["rows"] if "frechet_distance" in row]
        few = [row for row in rows if row["style"] == "few"]
        for steps in (1, 2):
            points = [(row["train_steps"], row["frechet_distance"]) for row in few if row["steps"] == steps]
            training.plot(
                *zip(*points), marker="o", label=f"{label}, {steps} step{'s' * (steps > 1)}"
            ) if points else None
        for style in ("few", "any", "multi"):
            longest = max((row["train_steps"] for row in rows), default=0)
            points = [
                (row["evaluations"], row["frechet_distance"])
                for row in rows
                if row["style"] == style and row["train_steps"] == longest
            ]
            sampling.plot(*zip(*points), marker="o", label=f"{label}, {style}") if points else None
    for scheduler in ("FlowMatchEuler", "FlowMatchLCM", "UniPC", "DPM++"):
        points = [
            (row["evaluations"], row["frechet_distance"])
            for row in report["base"]
            if row["scheduler"] == scheduler
            and row["guidance_scale"] == 1
            and row["steps"] <= 8
            and "error" not in row
        ]
        sampling.plot(*zip(*points), linestyle=":", marker=".", label=f"base, {scheduler}") if points else None
    for axes, label in ((training, "training steps"), (sampling, "evaluations")):
        axes.axhline(
            report["reference"]["frechet_distance"], color="gray", linewidth=1, label="base, many evaluations"
        )
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="Fréchet distance")
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
