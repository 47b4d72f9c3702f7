"""The lists of modular pipelines in docs/scheduler.md.

Run it to write the page anew: `python -m tests.modular.list_on_page`.
"""

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

from marked_parts import fill, table  # noqa: E402

from tests.modular.building import ALONE, CANNOT, TWINS, UNTESTED  # noqa: E402

PAGE = ROOT / "docs" / "scheduler.md"


def listed(names: Iterable[str]) -> str:
    """The classes in lines of the page's width."""
    text = ", ".join(f"`{name}ModularPipeline`" for name in sorted(names)) + "."
    return textwrap.fill(text, width=130, break_long_words=False)


def filled(page: str) -> str:
    """The page as it should be."""
    reasons = table(("pipeline", "why"), [(f"`{name}ModularPipeline`", reason) for name, reason in CANNOT.items()])
    page = fill(page, "modular cannot", reasons)
    for name, names in (("twins", TWINS), ("alone", ALONE), ("untested", UNTESTED)):
        page = fill(page, f"modular {name}", listed(names))
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
