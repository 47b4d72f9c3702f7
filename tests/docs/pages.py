"""The pages that users read, and what is in them."""

import re
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CODE = ("fence", "code_block", "code_inline")


def tokens(text: str) -> Iterator[Token]:
    """All tokens of a page, those within paragraphs too."""
    for token in MarkdownIt().enable("table").parse(text):
        yield token
        yield from token.children or ()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks in one language."""
    return [token.content for token in tokens(text) if token.type == "fence" and token.info.strip() == language]


def links(text: str) -> list[str]:
    """Targets of links and pictures, without those on other machines."""
    targets = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(text)]
    return [str(target) for target in targets if target and "://" not in str(target)]


def anchors(text: str) -> set[str]:
    """What links to the headings of a page may end in, as GitHub makes it from them."""
    parsed = MarkdownIt().enable("table").parse(text)
    headings = [parsed[i + 1].content for i, token in enumerate(parsed) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
