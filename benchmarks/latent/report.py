"""Image grids and curves of `benchmarks/latent.py`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from .ways import COMPARED, CURVES, WAYS

GRID_PROMPTS, GRID_SEEDS = 4, 2
LABEL_HEIGHT = 32
LABEL_WIDTH = 420
FONT_SIZE = 20
QUALITY = 85
"""Quality of the JPEG files, which stay below 700 KB."""
REAL, BASE = "drawings", "base"


def strip_path(directory: Path, way: str, steps: int | None) -> Path:
    return directory / "images" / (f"{way}.png" if steps is None else f"{way}-{steps}.png")


def save_strip(images: torch.Tensor, path: Path, places: Sequence[int]) -> None:
    """Save the images at some places side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [Image.fromarray(images[place].permute(1, 2, 0).numpy()) for place in places]
    side = arrays[0].width
    strip = Image.new("RGB", (side * len(arrays), side), "white")
    for number, image in enumerate(arrays):
        strip.paste(image, (number * side, 0))
    strip.save(path)


def grid_places(prompts: Sequence[str]) -> list[int]:
    """Choose the images of a grid: for a few prompts, the images of several seeds."""
    by_prompt: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_prompt.setdefault(prompt, []).append(place)
    found = [places[:GRID_SEEDS] for places in by_prompt.values() if len(places) >= GRID_SEEDS]
    count = min(GRID_PROMPTS, len(found))
    return [place for i in range(count) for place in found[(2 * i + 1) * len(found) // (2 * count)]]


def write_grid(path: Path, rows: Sequence[tuple[str, Path]], prompts: Sequence[str]) -> None:
    """Put strips below each other, with their labels, if they exist."""
    found = [(label, Image.open(strip).convert("RGB")) for label, strip in rows if strip.is_file()]
    if not found:
        return
    width, side = found[0][1].size
    grid = Image.new("RGB", (LABEL_WIDTH + width, LABEL_HEIGHT + side * len(found)), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(FONT_SIZE)
    for number, prompt in enumerate(prompts):
        pen.text((LABEL_WIDTH + number * side + 4, 4), prompt[: side // 11], fill="black", font=font)
    for number, (label, strip) in enumerate(found):
        top = LABEL_HEIGHT + number * side
        pen.text((4, top + side // 2), label, fill="black", font=font)
        grid.paste(strip, (LABEL_WIDTH, top))
    grid.save(path, quality=QUALITY, optimize=True)


def counted(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"


def write_grids(directory: Path, steps: Sequence[int], draw_steps: int, prompts: Sequence[str]) -> None:
    """Write a grid for our full weights and our LoRA at all steps, and grids of all ways at one and two steps."""
    top = [
        ("drawings", strip_path(directory, REAL, None)),
        (f"base, {draw_steps} steps", strip_path(directory, BASE, draw_steps)),
    ]
    ours = [
        (f"{WAYS[way].label}, {counted(count)}", strip_path(directory, way, count))
        for way in ("full", "lora")
        for count in steps
        if count <= 4
    ]
    write_grid(directory / "grid_ours.jpg", top + ours, prompts)
    for count in steps[:2]:
        rows = [(f"base, Euler, {counted(count)}", strip_path(directory, f"{BASE}-FlowMatchEuler", count))]
        rows += [(WAYS[way].label, strip_path(directory, way, count)) for way in COMPARED]
        write_grid(directory / f"grid_{count}.jpg", top + rows, prompts)


def write_curve(path: Path, report: dict) -> None:
    """Plot the Fréchet distance over the minutes of training, for one and two steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    rows = {(row["way"], row["steps"]): row for row in report["rows"]}
    for label, ways in CURVES.items():
        for steps, style in ((1, "o-"), (2, "s--")):
            points = sorted(
                (report["ways"][way]["minutes"], rows[way, steps]["scores"]["fid"])
                for way in ways
                if way in report["ways"] and (way, steps) in rows
            )
            if points:
                axes.plot(*zip(*points), style, label=f"{label}, {counted(steps)}")
    for row in report["rows"]:
        if row["way"] == BASE:
            axes.axhline(row["scores"]["fid"], color="gray", label=f"base, {row['evaluations']} evaluations")
    axes.set(xlabel="minutes of training on one GPU", ylabel="Fréchet distance (judge)", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
