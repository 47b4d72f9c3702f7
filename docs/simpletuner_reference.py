"""Write the tables of docs/simpletuner.md from the tables that recipes of SimpleTuner are read with.

Run it to update the page: `python docs/simpletuner_reference.py`.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from marked_parts import fill, table

from diffusers_twinflow.integrations.simpletuner.base_models import FAMILIES, UNTRAINABLE, SimpleTunerFamily
from diffusers_twinflow.integrations.simpletuner.option_table import TABLE
from diffusers_twinflow.integrations.simpletuner.treatments import Converted, Ignored, Refused, Renamed

PAGE = Path(__file__).parent / "simpletuner.md"


def families() -> str:
    """A row for each family that can be trained, with its default flavour."""
    rows = (
        (f"`{name}`", flavours(family), family.flavours.get(family.default, ""), pipelines(family))
        for name, family in sorted(FAMILIES.items())
    )
    return table(("`model_family`", "`model_flavour`, the default first", "default base", "pipeline"), rows)


def flavours(family: SimpleTunerFamily) -> str:
    """The flavours, with the default first."""
    default = [family.default] if family.default in family.flavours else []
    return ", ".join(f"`{name}`" for name in [*default, *(each for each in family.flavours if each != family.default)])


def pipelines(family: SimpleTunerFamily) -> str:
    """The stock pipelines of the flavours."""
    return ", ".join(f"`{name}`" for name in dict.fromkeys([family.pipeline, *family.pipelines.values()]))


def other_families() -> str:
    """The families that cannot be trained, by reason."""
    reasons = dict(UNTRAINABLE)
    for name, family in FAMILIES.items():
        reasons |= {f"{name}: {flavour}": reason for flavour, reason in family.refused.items()}
    return by_reason(("family, or family and flavour", "reason"), reasons.items())


def translated() -> str:
    """A row for each option that is translated."""
    rows = []
    for name, treatment in sorted(TABLE.items()):
        if isinstance(treatment, Renamed) and treatment.to != name:
            rows.append((f"`{name}`", f"`--{treatment.to}`"))
        elif isinstance(treatment, Converted):
            new = ", ".join(f"`--{each}`" for each in treatment.to)
            rows.append((f"`{name}`", new or "only checked"))
    same = sorted(name for name, each in TABLE.items() if isinstance(each, Renamed) and each.to == name)
    names = ", ".join(f"`{name}`" for name in same)
    return f"{table(('SimpleTuner', 'here'), rows)}\n\nThese options have the same name here: {names}."


def refused() -> str:
    """The options that must be off, by reason."""
    return by_reason(
        ("option", "why, and what to do"),
        ((name, treatment.reason) for name, treatment in TABLE.items() if isinstance(treatment, Refused)),
    )


def ignored() -> str:
    """The options without effect, by reason."""
    return by_reason(
        ("option", "reason"),
        ((name, treatment.reason) for name, treatment in TABLE.items() if isinstance(treatment, Ignored)),
    )


def by_reason(header: tuple[str, str], reasons: Iterable[tuple[str, str]]) -> str:
    """A table with a row for each reason."""
    names = defaultdict(list)
    for name, reason in reasons:
        names[reason].append(name)
    rows = ((", ".join(f"`{name}`" for name in sorted(each)), reason) for reason, each in names.items())
    return table(header, sorted(rows))


PARTS = {
    "families": families,
    "other families": other_families,
    "translated": translated,
    "refused": refused,
    "ignored": ignored,
}


def filled(page: str) -> str:
    """The page with its tables made anew."""
    for name, make in PARTS.items():
        page = fill(page, name, make())
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
