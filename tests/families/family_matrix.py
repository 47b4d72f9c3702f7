"""The table of families in docs/base_models.md, from the kit's list.

Run it to write the page anew: `python -m tests.families.family_matrix`.
"""

from pathlib import Path

from diffusers_twinflow.families.diffusion import DiffusionFamily
from docs.marked_parts import fill, table
from tests.families import kit

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "base_models.md"
COLUMNS = ("family", "velocity compared with", "LoRA step", "full step", "validation image", "saved model runs")


def matrix() -> str:
    """One row a case of the kit; every check of the kit runs on every case."""
    rows = [
        (f"`{case.family_name}` {case.label}".strip(), compared_with(case), *["yes"] * (len(COLUMNS) - 2))
        for case in kit.CASES
    ]
    return table(COLUMNS, rows)


def compared_with(case: kit.Case) -> str:
    scheduler = type(case.pipeline.scheduler).__name__
    return f"{scheduler}, bridged" if isinstance(case.family, DiffusionFamily) else scheduler


def pages() -> dict[Path, str]:
    """The page as it should be."""
    return {PAGE: fill(PAGE.read_text(encoding="utf-8"), "matrix", matrix())}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
