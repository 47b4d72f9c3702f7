"""Prepare the files that PyPI shows: links of README.md become absolute, and the project gets its URLs.

    python .github/prepare_release.py OWNER/NAME TAG

PyPI does not resolve relative links. The repository's address is known only where the release runs. The tag must be the
version of the package, and the changelog must describe this version.
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def with_absolute_links(markdown: str, repository: str, tag: str) -> str:
    """Return Markdown in which each relative link points to the files of a tag on GitHub.

    Args:
        repository: owner and name, such as `someone/diffusers-twinflow`.
    """

    def absolute(match: re.Match) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        kind = "raw" if match["image"] else "blob"
        return f"{match['image']}[{match['text']}](https://github.com/{repository}/{kind}/{tag}/{target})"

    return LINK.sub(absolute, markdown)


def with_project_urls(pyproject: str, repository: str) -> str:
    """Return the text of pyproject.toml with the repository's URLs."""
    header, address = "[project.urls]\n", f"https://github.com/{repository}"
    if header not in pyproject:
        raise ValueError("pyproject.toml has no [project.urls]: add the table.")
    urls = {
        "Repository": address,
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/main/CHANGELOG.md",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return pyproject.replace(header, header + lines, 1)


def check_tag(tag: str, package: str, changelog: str) -> None:
    """Check that the tag, the version of the package and the changelog name the same version.

    Args:
        package: text of the package's `__init__.py`.

    Raises:
        ValueError: if they differ.
    """
    found = re.search(r'^__version__ = "(.+)"$', package, re.MULTILINE)
    if not found:
        raise ValueError('src/diffusers_twinflow/__init__.py has no line __version__ = "...": add it.')
    version = found[1]
    if tag != f"v{version}":
        raise ValueError(
            f"The tag {tag} is not the version {version} of the package. Set __version__, or tag v{version}."
        )
    if not re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE):
        raise ValueError(f"CHANGELOG.md has no heading '## {version}'. Move the entries under 'Unreleased' there.")


def main(repository: str, tag: str) -> None:
    package = Path("src/diffusers_twinflow/__init__.py").read_text("utf-8")
    check_tag(tag, package, Path("CHANGELOG.md").read_text("utf-8"))
    readme, pyproject = Path("README.md"), Path("pyproject.toml")
    readme.write_text(with_absolute_links(readme.read_text("utf-8"), repository, tag), "utf-8")
    pyproject.write_text(with_project_urls(pyproject.read_text("utf-8"), repository), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
