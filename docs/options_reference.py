"""Write the tables of docs/options.md and docs/evaluate.md from the dataclasses that declare the options.

Run it to update the pages: `python docs/options_reference.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any

from marked_parts import fill, table

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.configuration import TWINFLOW, FlowMatchingConfig
from diffusers_twinflow.evaluation.arguments import EvaluationArguments
from diffusers_twinflow.options import default_of, describe_need, groups_of, options_of, shown_value, type_of
from diffusers_twinflow.ranges import Range
from diffusers_twinflow.training.arguments import RecipeOptions, TrainingArguments

PAGE = Path(__file__).parent / "options.md"
NOTE = "Except `diff2flow_enabled`, these options need `twinflow_enabled`."
"""Below the title of the group TwinFlow, so that not every row says it."""
EVALUATION_PAGE = Path(__file__).parent / "evaluate.md"


def sections() -> Iterable[tuple[str, Iterable[Field]]]:
    """The groups of options with their titles: the recipe, TwinFlow, flow matching, and the groups of a run."""
    yield from groups_of(RecipeOptions)
    yield "TwinFlow", options_of(TwinFlowConfig)
    yield "Flow matching", options_of(FlowMatchingConfig)
    yield from groups_of(TrainingArguments)


def reference() -> str:
    """A table for each group."""
    return "\n\n".join(
        section(title, [row(declared, TWINFLOW if title == "TwinFlow" else ()) for declared in options])
        for title, options in sections()
    )


def section(title: str, rows: list[tuple[str, str, str]]) -> str:
    escaped = ([cell.replace("|", r"\|") for cell in cells] for cells in rows)
    note = f"{NOTE}\n\n" if title == "TwinFlow" else ""
    return f"## {title}\n\n{note}{table(('option', 'default', 'meaning'), escaped)}"


def row(declared: Field, known_needs: Sequence[str] = ()) -> tuple[str, str, str]:
    """The names of an option, its default, and its help text with the allowed values and what it needs."""
    metadata = declared.metadata
    names = ", ".join(f"`{name}`" for name in (declared.name, *metadata["aliases"]))
    choices = f"One of {', '.join(f'`{choice}`' for choice in metadata['choices'])}." if metadata["choices"] else ""
    several = "Takes several values." if type_of(declared).is_list else ""
    unsaid = [
        need
        for need in metadata["needs"]
        if need not in known_needs and f"`{need.strip('!')}`" not in metadata["help"]
    ]
    needs = " and ".join(map(describe_need, unsaid)).replace(" and needs", " and")
    needs = f"{needs[:1].upper()}{needs[1:]}." if needs else ""
    parts = (metadata["help"], choices, range_of(metadata["allowed"]), several, needs)
    return names, shown(default_of(declared)), " ".join(filter(None, parts))


def range_of(allowed: Range | None) -> str:
    """The range of a numeric option as a sentence."""
    return f"{str(allowed).capitalize()}." if allowed is not None else ""


def shown(value: Any) -> str:
    """A default as it is written on the command line."""
    return "" if value is None else f"`{shown_value(value)}`"


def filled(page: str) -> str:
    """The page of training options with its tables made anew."""
    return fill(page, "options", reference())


def evaluation_filled(page: str) -> str:
    """The page of the evaluation with its table of options made anew."""
    rows = [row(declared) for declared in options_of(EvaluationArguments)]
    flags = [(f"`--{names.strip('`')}`", default, meaning.replace("|", r"\|")) for names, default, meaning in rows]
    return fill(page, "evaluation options", table(("option", "default", "meaning"), flags))


if __name__ == "__main__":
    for path, make in ((PAGE, filled), (EVALUATION_PAGE, evaluation_filled)):
        path.write_text(make(path.read_text(encoding="utf-8")), encoding="utf-8")
