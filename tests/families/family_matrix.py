"""The table of families in docs/base_models.md, from the kit's list.

Run it to write the page anew: `python tests/families/family_matrix.py`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "docs"))

import kit
from marked_parts import fill, table

from diffusers_twinflow.families.diffusion import DiffusionFamily

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
