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
REFERENCES = {"full weights": "full", "LoRA, rank 64": "lora"}
LENGTHS = ("shorter", "reference", "longer")


def assemble(work_dir: Path, settings: dict) -> dict:
    """All that was measured, from what the stages left in `work_dir`."""
    base = _read(work_dir / "base_rows.json")
    paths = [work_dir / "results" / f"{variant.name}.json" for variant in VARIANTS]
    variants = [_read(path) for path in paths if path.is_file()]
    return {
        "settings": settings,
        "training_of_the_base": _read(work_dir / "base" / "training.json"),
        "judge": base["judge"],
        "reference": base["reference"],
        "base": base["rows"],
        "variants": variants,
        "targets": targets(base["reference"], variants),
        "stages": {path.stem.removeprefix("stage_"): _read(path) for path in sorted(work_dir.glob("stage_*.json"))},
    }


def today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def machine() -> dict:
    """The device that this process runs on, and the versions it runs."""
    device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "cpu"
    return {"device": device, **environment()}


def targets(reference: dict, variants: list[dict]) -> list[dict]:
    """What the benchmark set out to reach, of the reference recipes at their longest."""
    base = reference["frechet_distance"]
    full, lora = (last_rows(variants, kind) for kind in REFERENCES.values())
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


def rows_of_lengths(variants: list[dict], kind: str) -> list[dict]:
    """The scored rows of a reference recipe, "full" or "lora", at each length of training."""
    names = [f"{kind}-{length}" for length in LENGTHS]
    return [row for v in variants if v["name"] in names for row in v["rows"] if "frechet_distance" in row]


def last_rows(variants: list[dict], kind: str) -> dict[int, float]:
    """Frechet distance by steps, style few, after the longest training."""
    rows = [row for row in rows_of_lengths(variants, kind) if row["style"] == "few"]
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
    for label, kind in REFERENCES.items():
        files = [work_dir / "pictures" / f"{kind}-{length}.safetensors" for length in LENGTHS]
        drawn = load_file(str(files[-1])) if (files := [file for file in files if file.is_file()]) else {}
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
    for label, kind in REFERENCES.items():
        rows = rows_of_lengths(report["variants"], kind)
        few = [row for row in rows if row["style"] == "few"]
        for steps in (1, 2):
            points = sorted((row["train_steps"], row["frechet_distance"]) for row in few if row["steps"] == steps)
            plot(training, points, f"{label}, {steps} step{'s' * (steps > 1)}", marker="o")
        for style in ("few", "any", "multi"):
            points = [point(row) for row in rows if row["style"] == style and row["variant"] == f"{kind}-reference"]
            plot(sampling, points, f"{label}, {style}", marker="o")
    for scheduler in ("FlowMatchEuler", "FlowMatchLCM", "UniPC", "DPM++"):
        chosen = [row for row in report["base"] if row["scheduler"] == scheduler and row["guidance_scale"] == 1]
        points = [point(row) for row in chosen if row["steps"] <= 8 and "error" not in row]
        plot(sampling, points, f"base, {scheduler}", linestyle=":", marker=".")
    for axes, label in ((training, "training steps"), (sampling, "evaluations")):
        many = report["reference"]["frechet_distance"]
        axes.axhline(many, color="gray", linewidth=1, label="base, many evaluations")
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="Fréchet distance")
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def point(row: dict) -> tuple[int, float]:
    return row["evaluations"], row["frechet_distance"]


def plot(axes, points: list[tuple[int, float]], label: str, **style) -> None:
    if points:
        axes.plot(*zip(*points), label=label, **style)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
