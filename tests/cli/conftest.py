import pytest

from tests.hub.processes import shared_hub
from tests.hub.repositories import write_repository


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, base_dir):
    """A tiny TwinFlow LoRA repository on the tiny base."""
    directory = tmp_path_factory.mktemp("adapter") / "repository"
    write_repository(directory, str(base_dir))
    return directory


@pytest.fixture(scope="session")
def hub():
    return shared_hub()


@pytest.fixture(autouse=True)
def no_faults_left(request):
    yield
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").take_back_faults()
