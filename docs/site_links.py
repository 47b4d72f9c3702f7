"""Hook of mkdocs: point links to files that the site does not have at the repository, such as examples and results.

The address of the repository is `repo_url` of mkdocs.yml. Without it, such a link becomes plain text.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, *, config: Any, files: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""

    def is_on_site(path: str) -> bool:
        file = files.get_file_from_path(path)
        return file is not None and file.inclusion.is_included()

    return with_repository_links(markdown, config.repo_url, is_on_site)


def with_repository_links(markdown: str, address: str | None, is_on_site: Callable[[str], bool]) -> str:
    """Replace the links of a page in docs/ to files that are not on the site. Blocks of code stay as they are.

    Args:
        address: address of the repository, if it is known.
        is_on_site: tells whether the site has a file, by its path in docs/.
    """

    def replaced(match: re.Match) -> str:
        path = posixpath.normpath(f"docs/{match['path']}")
        if path.startswith("docs/") and is_on_site(path.removeprefix("docs/")):
            return match[0]
        if not address:
            return match["text"]
        kind = "raw" if match["image"] else "tree" if (ROOT / path).is_dir() else "blob"
        target = f"{address.rstrip('/')}/{kind}/HEAD/{path}{match['anchor'] or ''}"
        return f"{match['image']}[{match['text']}]({target})"

    parts = FENCED.split(markdown)
    return "".join(part if index % 2 else LINK.sub(replaced, part) for index, part in enumerate(parts))
