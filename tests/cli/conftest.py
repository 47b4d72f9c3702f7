import importlib.util
import sys
from pathlib import Path

import pytest

hub_tests = Path(__file__).parents[1] / "hub"


def load(name):
    spec = importlib.util.spec_from_file_location(f"hub_{name}", hub_tests / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, base_dir):
    """A tiny TwinFlow LoRA repository on the tiny base."""
    directory = tmp_path_factory.mktemp("adapter") / "repository"
    load("conftest").write_repository(directory, str(base_dir))
    return directory


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    server = load("test_hub").Hub(tmp_path_factory.mktemp("home"))
    yield server
    server.close()
