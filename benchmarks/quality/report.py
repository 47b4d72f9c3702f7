"""Write the report: one JSON file, a Markdown table, and two images."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from report import environment, target
from safetensors.torch import load_file

from .prepare_data import COUNTS_NAME
from .variants import VARIANTS

CELL_INCHES, VARIANT_INCHES = 1.0, 0.16
CUT = 3
"""Bars are cut at this multiple of the median."""
DISTANCES = (2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 15, 20, 40, 80, 160, 320)
EVALUATIONS, TRAINING_STEPS = (1, 2, 4, 8, 16, 32, 64), (400, 1000, 2000, 4000, 6000, 8000)
GRID_ROWS = 8
SHOWN = (
    "recommended-1024",
    "recommended",
    "longest",
    "all-linears-half-longer",
    "all-linears-as-long",
    "all-linears-longest",
    "longer",
    "all-linears-longer",
    "reference",
    "shorter",
)
KINDS = {"full weights": "full", "LoRA, rank 64": "lora"}
LENGTHS = {
    label: [f"{kind}-{length}" for length in ("shorter", "reference", "longer", "longest")]
    for label, kind in KINDS.items()
}
LENGTHS["LoRA, all linear layers"] = [f"lora-all-linears-{length}" for length in ("longest", "as-long", "half-longer")]
STOCK = {"FlowMatchEuler": ":", "FlowMatchLCM": "--", "UniPC": "-.", "DPM++": (0, (1, 3))}


def assemble(work_dir: Path, data_dir: Path, settings: dict) -> dict:
    """Collect all measurements from the files of the stages in `work_dir`."""
    counts = data_dir / COUNTS_NAME
    scored = (work_dir / name for name in ("base_rows.json", "base_reference.json"))
    base = _read(next(path for path in scored if path.is_file()))
    paths = [work_dir / "results" / f"{variant.name}.json" for variant in VARIANTS]
    variants = [_read(path) for path in paths if path.is_file()]
    return {
        "settings": settings,
        "data": _read(counts) if counts.is_file() else None,
        "training_of_the_base": _read(work_dir / "base" / "training.json"),
        "judge": base["judge"],
        "reference": base["reference"],
        "base": base["rows"],
        "variants": variants,
        "targets": targets(base["reference"], variants),
        "stages": {path.stem.removeprefix("stage_"): _read(path) for path in sorted(work_dir.glob("stage_*.json"))},
    }


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def machine() -> dict:
    """Return the device and the versions of this process."""
    device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "cpu"
    return {"device": device, **environment()}


def targets(reference: dict, variants: list[dict]) -> list[dict]:
    """Return the targets of the benchmark."""
    base, rows = reference["frechet_distance"], []
    full, lora = (few_steps(shown(variants, kind)) for kind in KINDS.values())
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


def shown(variants: list[dict], kind: str) -> dict:
    """Return the variant of a kind, "full" or "lora", for images and targets: the TwinFlow run with the most steps."""
    scored = {variant["name"]: variant for variant in variants if 1 in few_steps(variant)}
    names = [f"{kind}-{name}" for name in SHOWN]
    return next((scored[name] for name in names if name in scored), {"rows": []})


def few_steps(variant: dict) -> dict[int, float]:
    """Return the Frechet distance by number of steps, in style few."""
    rows = [row for row in variant["rows"] if row.get("style") == "few" and "frechet_distance" in row]
    return {row["steps"]: row["frechet_distance"] for row in rows}


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
    """Return every row in Markdown."""
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


def draw_grid(report: dict, work_dir: Path, prompts: list[str], path: Path) -> None:
    """Draw a grid with a row per prompt and a column per sampler. Each row has the same noise."""
    prompts = prompts[:GRID_ROWS]
    base = load_file(str(work_dir / "pictures" / "base.safetensors"))
    columns = {f"base, {name}": base[name] for name in sorted(base, key=len, reverse=True)}
    for label, kind in KINDS.items():
        file = work_dir / "pictures" / f"{shown(report['variants'], kind).get('name')}.safetensors"
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
    """Draw one panel over evaluations, one over training steps if they differ, and one per variant."""
    panels = [draw_evaluations, draw_lengths, draw_variants]
    if all(len(by_length(report["variants"], names, 1)) < 2 for names in LENGTHS.values()):
        panels.remove(draw_lengths)
    height = max(5.0, VARIANT_INCHES * len(report["variants"]))
    figure = Figure(figsize=(5 * len(panels), height), dpi=100, layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(panels)), panels):
        draw(axes, report)
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_evaluations(axes, report: dict) -> None:
    for label, kind in KINDS.items():
        chosen = shown(report["variants"], kind)
        plot(axes, sorted(few_steps(chosen).items()), f"TwinFlow, {label} ({chosen.get('name')})", marker="o")
    for scheduler, line in STOCK.items():
        points = best_points(report["base"], scheduler)
        plot(axes, points, f"base, {scheduler}", linestyle=line, color="black", linewidth=1)
    mark_base(axes.axhline, report)
    logarithmic(axes, "evaluations", EVALUATIONS)


def draw_lengths(axes, report: dict) -> None:
    for label, names in LENGTHS.items():
        for steps, line in ((1, "-"), (2, "--")):
            points = by_length(report["variants"], names, steps)
            plot(axes, points, f"{label}, {steps} step{'s' * (steps > 1)}", marker="o", linestyle=line)
    mark_base(axes.axhline, report)
    logarithmic(axes, "steps of training", TRAINING_STEPS)


def draw_variants(axes, report: dict) -> None:
    scored = [(v["name"], found) for v in report["variants"] if 1 in (found := few_steps(v))]
    scored.sort(key=lambda named: named[1][1], reverse=True)
    for steps, shift in ((1, 0.2), (2, -0.2)):
        heights = [number + shift for number in range(len(scored))]
        label = f"{steps} step{'s' * (steps > 1)}"
        axes.barh(heights, [found[steps] for _, found in scored], height=0.38, label=label)
    if scored:
        cut_long_bars(axes, [found for _, found in scored])
    axes.set_yticks(range(len(scored)), [name for name, _ in scored], fontsize=8)
    mark_base(axes.axvline, report)
    axes.set(xlabel="Fréchet distance")


def cut_long_bars(axes, scored: list[dict[int, float]]) -> None:
    """Cut bars that are far longer than the others, and write their values into them."""
    widest = CUT * median(found[1] for found in scored)
    for number, found in enumerate(scored):
        if found[1] > widest:
            text = axes.annotate(f"{found[1]:.0f} and {found[2]:.0f}", (widest, number), fontsize=7)
            text.set(horizontalalignment="right", verticalalignment="center", backgroundcolor="white")
    axes.set_xlim(0, min(widest, axes.get_xlim()[1]))


def mark_base(draw_line: Callable, report: dict) -> None:
    """Draw a line at the value of the base at many evaluations."""
    base = report["reference"]
    draw_line(base["frechet_distance"], color="gray", linewidth=1, label=f"base, {base['evaluations']} evaluations")


def logarithmic(axes, horizontal: str, counts: tuple[int, ...]) -> None:
    axes.set(xscale="log", yscale="log", xlabel=horizontal, ylabel="Fréchet distance")
    mark(axes.yaxis, DISTANCES)
    mark(axes.xaxis, counts)


def by_length(variants: list[dict], names: list[str], steps: int) -> list[tuple[int, float]]:
    """Return training steps and Frechet distances of variants that differ in length."""
    chosen = [variant for variant in variants if variant["name"] in names and steps in few_steps(variant)]
    return sorted((v["training"]["steps"], few_steps(v)[steps]) for v in chosen)


def mark(axis, values: tuple[int, ...]) -> None:
    """Write plain numbers at these places of a logarithmic axis."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def best_points(rows: list[dict], scheduler: str) -> list[tuple[int, float]]:
    """Return evaluations and Frechet distances of the base at few steps, with or without guidance, whichever is better."""
    found: dict[int, float] = {}
    for row in rows:
        if row["scheduler"] == scheduler and row["steps"] <= 8 and "error" not in row:
            least = found.get(row["evaluations"], row["frechet_distance"])
            found[row["evaluations"]] = min(least, row["frechet_distance"])
    return sorted(found.items())


def plot(axes, points: list[tuple[int, float]], label: str, **style) -> None:
    if points:
        axes.plot(*zip(*points), label=label, **style)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
