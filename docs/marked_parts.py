"""Generated parts of a page: what is between `<!-- NAME -->` and `<!-- end -->`, and the tables in them."""

import re
from collections.abc import Iterable, Sequence


def names_of(page: str) -> list[str]:
    """The names of the generated parts of a page, in order."""
    return [name for name in re.findall(r"<!-- ([\w -]+) -->", page) if name != "end"]


def fill(page: str, name: str, content: str) -> str:
    """Replace one generated part of a page.

    Args:
        page: Markdown.
        name: name of the part.
        content: the new Markdown.

    Returns:
        The page with the new content.

    Raises:
        ValueError: if the page does not have exactly one part of this name.
    """
    replacement = f"<!-- {name} -->\n{content}\n<!-- end -->"
    page, count = re.subn(f"<!-- {name} -->\n.*?<!-- end -->", lambda found: replacement, page, flags=re.S)
    if count != 1:
        raise ValueError(f"the page has {count} places for {name!r}: it needs one line `<!-- {name} -->`.")
    return page


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. A vertical bar in a cell must be escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
