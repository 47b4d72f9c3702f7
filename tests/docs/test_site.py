"""The web site of the pages: links to files that it does not have, and the check of its links."""

import pytest
from check_site import broken_links
from site_links import with_repository_links

from tests.docs.pages import ROOT, links

PAGE = """
[Recipes](recipes.md#start), ![a figure](images/x.png), [other](https://other.org/a.md), [here](#here)
[results](../benchmarks/results), [`file`](../examples/digits/README.md#score), [script](figures/method.py)

```text
[code](../examples)
```
"""
SITE = {"recipes.md", "images/x.png"}


def test_links_to_files_of_the_repository_lead_there():
    page = with_repository_links(PAGE, "https://github.com/me/x/", SITE.__contains__)
    assert page.splitlines()[1] == PAGE.splitlines()[1] and "[code](../examples)" in page
    address = "https://github.com/me/x"
    assert page.splitlines()[2] == (
        f"[results]({address}/tree/HEAD/benchmarks/results), "
        f"[`file`]({address}/blob/HEAD/examples/digits/README.md#score), "
        f"[script]({address}/blob/HEAD/docs/figures/method.py)"
    )


def test_without_an_address_they_are_text():
    page = with_repository_links(PAGE, None, SITE.__contains__)
    assert page.splitlines()[1] == PAGE.splitlines()[1] and "[code](../examples)" in page
    assert page.splitlines()[2] == "results, `file`, script"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_no_page_links_to_a_file_outside_docs(path):
    page = with_repository_links(path.read_text("utf-8"), None, lambda name: (ROOT / "docs" / name).is_file())
    assert not [link for link in links(page) if link.startswith("..")]


def test_broken_links_of_a_built_site_are_found(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "style.css").touch()
    start = '<link href="style.css"><a href="data/#images">a</a><a href="https://other.org/x">b</a><h2 id="top">c</h2>'
    (tmp_path / "index.html").write_text(start + '<a href="data/#sounds">d</a><img src="x.png"><a href="../">e</a>')
    (tmp_path / "data" / "index.html").write_text('<h2 id="images"></h2><a href="..">f</a><a href="../#no">g</a>')
    assert broken_links(tmp_path) == [
        "data/index.html: ../#no",
        "index.html: data/#sounds",
        "index.html: x.png",
        "index.html: ../",
    ]


def test_a_site_without_pages_is_broken(tmp_path):
    assert len(broken_links(tmp_path)) == 1
