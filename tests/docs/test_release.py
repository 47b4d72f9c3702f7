"""A release: `.github/prepare_release.py` makes what PyPI shows, and refuses a tag that is not the package's version."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from diffusers_twinflow import __version__

ROOT = Path(__file__).parents[2]
REPOSITORY = "someone/diffusers-twinflow"


@pytest.fixture
def release(tmp_path, monkeypatch) -> Path:
    """The files of version 1.2.3, in the working directory."""
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "src" / "diffusers_twinflow" / "__init__.py"
    package.parent.mkdir(parents=True)
    text = (ROOT / package.relative_to(tmp_path)).read_text("utf-8")
    package.write_text(text.replace(f'"{__version__}"', '"1.2.3"'), "utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    (tmp_path / "CHANGELOG.md").write_text(changelog.replace("## Unreleased", "## 1.2.3 - 2027-01-31"), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(monkeypatch, tag: str) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_release.py", REPOSITORY, tag])
    runpy.run_path(str(ROOT / ".github" / "prepare_release.py"), run_name="__main__")


@pytest.fixture
def prepared(release, monkeypatch) -> Path:
    prepare(monkeypatch, "v1.2.3")
    return release


def test_each_link_of_the_readme_is_absolute_and_names_an_existing_file(prepared):
    before = (ROOT / "README.md").read_text("utf-8")
    after = (prepared / "README.md").read_text("utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", after)
    assert len(targets) == len(re.findall(r"\]\(([^)]+)\)", before)) > 10
    assert all(target.startswith("https://") for target in targets)
    ours = [target for target in targets if target.startswith(f"https://github.com/{REPOSITORY}/")]
    files = [
        re.fullmatch(rf"https://github.com/{REPOSITORY}/(?:raw|blob)/v1\.2\.3/([^#]+)(#.*)?", url) for url in ours
    ]
    assert len(files) > 8
    assert all(file and (ROOT / file[1]).is_file() for file in files)
    assert f"](https://github.com/{REPOSITORY}/raw/v1.2.3/docs/images/quality_grid.png)" in after


def test_the_project_has_the_urls_of_the_repository(prepared):
    urls = (prepared / "pyproject.toml").read_text("utf-8").split("[project.urls]\n")[1].split("\n\n")[0].splitlines()
    assert f'Repository = "https://github.com/{REPOSITORY}"' in urls
    assert any(url.startswith('Paper = "https://arxiv.org/') for url in urls)


@pytest.mark.parametrize("tag", ["v1.2.4", "1.2.3", "v1.2.3rc1"])
def test_a_tag_that_is_not_the_version_is_refused(release, monkeypatch, tag):
    with pytest.raises(ValueError, match=rf"{tag} is not the version 1\.2\.3 .* tag v1\.2\.3"):
        prepare(monkeypatch, tag)


def test_a_version_that_the_changelog_does_not_describe_is_refused(release, monkeypatch):
    changelog = release / "CHANGELOG.md"
    changelog.write_text(changelog.read_text("utf-8").replace("## 1.2.3", "## 1.2.30"), "utf-8")
    with pytest.raises(ValueError, match=r"no heading '## 1\.2\.3'"):
        prepare(monkeypatch, "v1.2.3")
