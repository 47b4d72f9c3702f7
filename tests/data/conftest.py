import pytest

from tests.data.data_files import Files


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "files")


@pytest.fixture
def cache_dir(tmp_path) -> str:
    """Where `datasets` keeps what it makes."""
    return str(tmp_path / "datasets")
