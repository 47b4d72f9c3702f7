import copy
import shutil

import pytest
from huggingface_hub import constants

from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from tests.hub.processes import hub, no_faults_left  # noqa: F401
from tests.hub.repositories import FAMILY, write_model, write_repository


@pytest.fixture(autouse=True)
def this_process_has_no_hub(monkeypatch):
    """Processes that `hub` starts have one."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def written_repository(tmp_path_factory, base_dir):
    directory = tmp_path_factory.mktemp("shared") / "repository"
    return directory, write_repository(directory, str(base_dir))


@pytest.fixture
def repository(tmp_path, written_repository):
    """A repository and the trained transformer, both the test's to change."""
    directory, transformer = written_repository
    return shutil.copytree(directory, tmp_path / "repository"), copy.deepcopy(transformer)


@pytest.fixture(scope="session")
def shared_repository(written_repository):
    """As `repository`, for tests that only read it or copy it."""
    return written_repository[0]


@pytest.fixture(scope="session")
def shared_model(tmp_path_factory, base_dir):
    """A whole distilled model, for tests that only read it or copy it."""
    directory = tmp_path_factory.mktemp("shared") / "model"
    write_model(directory, base_dir)
    return directory


@pytest.fixture
def pipeline(base_dir):
    loaded = load_stock_pipeline(FAMILY, base_dir)
    loaded.set_progress_bar_config(disable=True)
    return loaded
