"""Write the report of an evaluation: a table, curves and a grid of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..hub.grids import labelled_grid
from ..hub.sample_images import count_of_steps
from ..writing import write_file, write_text
from .results import Results, RowResult
from .rows import BASE, Row

TABLE_NAME, CURVES_NAME, GRID_NAME = "scores.md", "curves.png", "grid.png"
LARGEST_IMAGE = 256
SECONDS = "seconds per image"
TITLES = {
    "fid": "Fréchet distance",
    "clip_score": "CLIP score",
    "objects": "objects",
    "text": "text",
    "text_exact": "text, exact",
    "diversity": "diversity",
}
PANEL_INCHES, PANELS_PER_LINE = 4.5, 3


def title_of(score: str) -> str:
    """Return the title of a score for tables and curves."""
    return TITLES.get(score, score.replace("/", ": "))


def score_names(rows: Sequence[RowResult]) -> list[str]:
    """Return the names of all scores: those with a title first, in the order of `TITLES`."""
    names = list(dict.fromkeys(name for result in rows for name in result.scores))
    return [name for name in TITLES if name in names] + [name for name in names if name not in TITLES]


def table(rows: Sequence[RowResult]) -> str:
    """Return the scores as a Markdown table, with one line per row."""
    names = score_names(rows)
    headers = ["", *map(title_of, names), SECONDS, "device"]
    lines = [headers, ["---"] * len(headers)]
    for result in rows:
        scores = [_shown(result.scores.get(name)) for name in names]
        lines.append([result.row.label, *scores, _shown(result.seconds_per_image), result.device])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    failures = [f"- {result.row.label} could not be generated: {result.error}" for result in rows if result.error]
    return "\n".join([text, *([""] if failures else []), *failures]) + "\n"


def curves(rows: Sequence[RowResult]) -> Any:
    """Return a figure with one panel per score: score over number of steps, one line per model and scheduler.

    The base with its usual scheduler has one number of steps, and is a horizontal line.
    """
    from matplotlib.figure import Figure

    names = [*score_names(rows), SECONDS]
    columns = min(len(names), PANELS_PER_LINE)
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(PANEL_INCHES * columns, PANEL_INCHES * lines), dpi=100, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(panels, names, strict=False):
        points = points_of(rows, name)
        for method, (steps, values) in points.items():
            if method == BASE:
                panel.axhline(values[0], color="gray", linewidth=1, label=f"{method}, {count_of_steps(steps[0])}")
            else:
                panel.plot(steps, values, marker="o", label=method)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(xlabel="steps", ylabel=title_of(name))
        if points:
            panel.legend(fontsize=8)
    return figure


def points_of(rows: Sequence[RowResult], score: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return the numbers of steps and the values of a score, by model and scheduler."""
    found: dict[str, dict[int, float]] = {}
    for result in rows:
        value = result.seconds_per_image if score == SECONDS else result.scores.get(score)
        if value is not None:
            found.setdefault(result.row.method, {})[result.row.steps] = value
    return {method: (sorted(values), [values[steps] for steps in sorted(values)]) for method, values in found.items()}


def grid(paths: Mapping[Row, Sequence[Path]], prompts: Sequence[str]) -> Image.Image:
    """Return one image with a column per row of the evaluation and a line per prompt.

    Args:
        paths: saved images by row, in the order of the prompts.
        prompts: prompts of the images.
    """
    columns = {row.label: [_small(path) for path in images] for row, images in paths.items()}
    return labelled_grid(columns, prompts)


def write_report(
    directory: str | Path,
    results: Results,
    rows: Sequence[Row],
    images: Mapping[Row, Sequence[Path]],
    prompts: Sequence[str],
) -> list[Path]:
    """Write `scores.md`, `curves.png` and `grid.png` into a folder.

    Args:
        rows: rows of the report, all of them finished.
        images: saved images by row, for the grid. Rows that could not be generated have none.
        prompts: prompts of these images.

    Returns:
        The paths of the files.
    """
    directory = Path(directory)
    chosen = [results.rows[row] for row in rows]
    paths = [directory / name for name in (TABLE_NAME, CURVES_NAME, GRID_NAME)]
    write_text(paths[0], table(chosen))
    write_file(paths[1], curves(chosen).savefig)
    write_file(paths[2], grid(images, prompts).save)
    return paths


def _small(path: Path) -> Image.Image:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((LARGEST_IMAGE, LARGEST_IMAGE))
    return small


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
