"""The lists of modular pipelines in docs/scheduler.md, and the table of those that train in docs/base_models.md.

Run it to write the pages anew: `python -m tests.modular.list_on_page`.
"""

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

from marked_parts import fill, table  # noqa: E402

from diffusers_twinflow.configuration import TwinFlowConfigError  # noqa: E402
from diffusers_twinflow.families import FAMILIES  # noqa: E402
from tests.modular.building import ALONE, CANNOT, TWINS, UNTESTED  # noqa: E402
from tests.modular.captured_blocks import CANNOT_BE_CAPTURED, CANNOT_BE_DECODED  # noqa: E402
from tests.schedulers.captured_pipelines import SOUND  # noqa: E402
from tests.schedulers.pipeline_matrix import NEEDS_MORE, WHY, kind_of, why_not  # noqa: E402

SCHEDULER_PAGE, BASES_PAGE = ROOT / "docs" / "scheduler.md", ROOT / "docs" / "base_models.md"


def listed(names: Iterable[str]) -> str:
    """The classes in lines of the page's width."""
    text = ", ".join(f"`{name}ModularPipeline`" for name in sorted(names)) + "."
    return textwrap.fill(text, width=130, break_long_words=False)


def lists(page: str) -> str:
    """The page of the scheduler as it should be."""
    reasons = table(("pipeline", "why"), [(f"`{name}ModularPipeline`", reason) for name, reason in CANNOT.items()])
    page = fill(page, "modular cannot", reasons)
    for name, names in (("twins", TWINS), ("alone", ALONE), ("untested", UNTESTED)):
        page = fill(page, f"modular {name}", listed(names))
    return page


def rows() -> list[tuple[str, str]]:
    """One row per modular pipeline for which tiny inputs are built."""
    return [(f"`{name}ModularPipeline`", answer_for(name)) for name in sorted([*TWINS, *ALONE])]


def answer_for(name: str) -> str:
    """What a modular pipeline trains with."""
    if name in CANNOT_BE_CAPTURED:
        return f"no: {why_not(CANNOT_BE_CAPTURED[name])}"
    family = FAMILIES[f"{name}ModularPipeline"]
    try:
        family.check_trains()
    except TwinFlowConfigError:
        return f"no: {WHY[SOUND]}" if "lyrics" in family.stock_call.parameters else NEEDS_MORE
    if name in CANNOT_BE_DECODED:
        return ("no: " if family.takes_reference_image else "prompts: ") + why_not(CANNOT_BE_DECODED[name])
    kind = kind_of(family)
    return f"{kind} with a reference image" if family.takes_reference_image else f"{kind} or prompts"


def pages() -> dict[Path, str]:
    """The pages as they should be."""
    trained = table(("pipeline", "trains with"), rows())
    return {
        SCHEDULER_PAGE: lists(SCHEDULER_PAGE.read_text(encoding="utf-8")),
        BASES_PAGE: fill(BASES_PAGE.read_text(encoding="utf-8"), "modular trained", trained),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
