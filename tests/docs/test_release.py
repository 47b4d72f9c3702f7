"""What PyPI shows: a distribution built after `.github/prepare_release.py` has absolute links and the project's URLs."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPOSITORY = "someone/diffusers-twinflow"


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Path:
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare_release.py", REPOSITORY, "v1.2.3"])
    runpy.run_path(str(ROOT / ".github" / "prepare_release.py"), run_name="__main__")
    return tmp_path


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
