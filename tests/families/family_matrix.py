"""The tables of families in docs/base_models.md and README.md, from the kit's list.

Run it to write the pages anew: `python tests/families/family_matrix.py`.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import kit

from diffusers_twinflow.families.diffusion import DiffusionFamily

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "base_models.md", ROOT / "README.md"
COLUMNS = ("family", "velocity against", "LoRA step", "full step", "validation picture", "call of what was saved")


def matrix() -> str:
    """One row a case of the kit; every check of the kit runs on every case."""
    rows = [
        (f"`{case.family_name}` {case.label}".strip(), compared_with(case), *["yes"] * (len(COLUMNS) - 2))
        for case in kit.CASES
    ]
    return table(COLUMNS, rows)


def summary() -> str:
    """One row a family, without what its velocity is compared with."""
    columns = (COLUMNS[0], *COLUMNS[2:])
    names = dict.fromkeys(case.family_name for case in kit.CASES)
    return table(columns, [(f"`{name}`", *["yes"] * (len(columns) - 1)) for name in names])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def compared_with(case: kit.Case) -> str:
    scheduler = type(case.pipeline.scheduler).__name__
    return f"{scheduler}, bridged" if isinstance(case.family, DiffusionFamily) else scheduler


def pages() -> dict[Path, str]:
    """The pages as they should be."""
    parts = {PAGE: ("matrix", matrix()), README: ("families", summary())}
    return {page: fill(page.read_text(encoding="utf-8"), *part) for page, part in parts.items()}


def fill(page: str, part: str, text: str) -> str:
    """The page with a generated part replaced.

    Raises:
        ValueError: where the page has no place for it, or several.
    """
    replacement = f"<!-- {part} -->\n{text}\n<!-- end -->"
    page, count = re.subn(f"<!-- {part} -->\n.*?<!-- end -->", lambda found: replacement, page, flags=re.S)
    if count != 1:
        raise ValueError(f"the page has {count} places for '{part}'.")
    return page


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
