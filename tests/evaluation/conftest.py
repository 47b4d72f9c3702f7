import sys

import pytest

from tests import tiny_scorers
from tests.hub.repositories import adapter, write_model  # noqa: F401


@pytest.fixture(scope="session")
def model(tmp_path_factory, base_dir):
    """A tiny whole TwinFlow model of the tiny base."""
    directory = tmp_path_factory.mktemp("adapter") / "model"
    write_model(directory, base_dir, str(base_dir))
    return directory


@pytest.fixture(scope="session")
def scorers(tmp_path_factory):
    """A tiny CLIP and a tiny detector on disk."""
    directory = tmp_path_factory.mktemp("scorers")
    tiny_scorers.save_clip(directory / "clip")
    tiny_scorers.save_detector(directory / "detector")
    return directory


@pytest.fixture
def plug_ins(tmp_path, monkeypatch):
    """A module of plug-ins in the working directory, which is `tmp_path`."""
    (tmp_path / "plug_ins.py").write_text(tiny_scorers.PLUG_INS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "plug_ins", raising=False)
    return "plug_ins"
