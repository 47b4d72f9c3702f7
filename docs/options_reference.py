"""The tables of docs/options.md, from `TwinFlowConfig` and the training script's parser.

Run it to write the page anew: `python docs/options_reference.py`.
"""

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGE = DOCS / "options.md"
sys.path.insert(0, str(DOCS.parent / "examples"))

import train_twinflow  # noqa: E402
from diffusers_twinflow import TwinFlowConfig  # noqa: E402
from diffusers_twinflow.ranges import Number, Range  # noqa: E402

TWINFLOW = "TwinFlow"


def reference() -> str:
    """TwinFlow's table, then one for each group of the parser, in the parser's order."""
    names = {option.name for option in fields(TwinFlowConfig)}
    sections = [section(TWINFLOW, [config_row(option) for option in fields(TwinFlowConfig)])]
    for group in train_twinflow.build_parser()._action_groups:
        rows = [parser_row(action) for action in group._group_actions if action.dest not in names | {"help"}]
        if rows:
            sections.append(section("Options from a file" if group.title == "options" else group.title, rows))
    return "\n\n".join(sections)


def section(title: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [("option", "default", "what"), ("---",) * 3, *rows]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)
    return f"## {title[0].upper()}{title[1:]}\n\n{table}"


def config_row(option) -> tuple[str, str, str]:
    return (
        f"`{option.name}`",
        shown(option.default),
        f"{option.metadata['help']} {range_of(option.metadata['allowed'])}".strip(),
    )


def parser_row(action: argparse.Action) -> tuple[str, str, str]:
    spellings = [f"`{spelling}`" for spelling in action.option_strings if not spelling.startswith("--no-")]
    choices = f"One of {', '.join(f'`{choice}`' for choice in action.choices)}." if action.choices else ""
    allowed = range_of(action.type.allowed) if isinstance(action.type, Number) else ""
    return ", ".join(spellings), shown(action.default), " ".join(filter(None, [action.help, choices, allowed]))


def range_of(allowed: Range | None) -> str:
    """The range of a numeric option as a sentence."""
    return f"{str(allowed).capitalize()}." if allowed is not None else ""


def shown(value: Any) -> str:
    """A default as one writes it."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"`{' '.join(map(str, value))}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def fill(page: str) -> str:
    """The page with its generated part replaced.

    Raises:
        ValueError: where the page has no place for it, or several.
    """
    replacement = f"<!-- options -->\n{reference()}\n<!-- end -->"
    page, count = re.subn("<!-- options -->\n.*?<!-- end -->", lambda found: replacement, page, flags=re.S)
    if count != 1:
        raise ValueError(f"{PAGE.name} has {count} places for the options.")
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
