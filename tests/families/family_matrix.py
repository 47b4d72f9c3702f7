"""The table of docs/base_models.md, from the kit's list.

Run it to write the page anew: `python tests/families/family_matrix.py`.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import kit

from diffusers_twinflow.families.diffusion import DiffusionFamily

PAGE = Path(__file__).parents[2] / "docs" / "base_models.md"
COLUMNS = ("family", "velocity against", "LoRA step", "full step", "validation picture", "call of what was saved")


def matrix() -> str:
    """One row a case of the kit; every check of the kit runs on every case."""
    rows = [
        (f"`{case.family_name}` {case.label}".strip(), compared_with(case), *["yes"] * (len(COLUMNS) - 2))
        for case in kit.CASES
    ]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def compared_with(case: kit.Case) -> str:
    scheduler = type(case.pipeline.scheduler).__name__
    return f"{scheduler}, bridged" if isinstance(case.family, DiffusionFamily) else scheduler


def fill(page: str) -> str:
    """The page with its generated part replaced.

    Raises:
        ValueError: where the page has no place for it, or several.
    """
    replacement = f"<!-- matrix -->\n{matrix()}\n<!-- end -->"
    page, count = re.subn("<!-- matrix -->\n.*?<!-- end -->", lambda found: replacement, page, flags=re.S)
    if count != 1:
        raise ValueError(f"{PAGE.name} has {count} places for the matrix.")
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
