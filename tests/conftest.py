"""Imports no more than it must: the process that hands tests to others reads this and runs none."""

import gc
import os

import pytest
from hypothesis import settings

from tests.forking import pytest_runtestloop, start  # noqa: F401
from tests.training_script import load_script

# torch then asks for GPUs in a way that leaves them usable in forked processes.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

settings.register_profile("default", deadline=None, max_examples=25, derandomize=True, database=None)
settings.register_profile("thorough", deadline=None, max_examples=50, derandomize=True, database=None)
settings.register_profile("random", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("default")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection():
    """Look for no garbage while modules are imported, and seldom later: it takes a fifth of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def script():
    """The training script, for runs in the tests' own process."""
    return load_script()


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory):
    """A tiny Stable Diffusion 3 pipeline on disk."""
    from tests import tiny

    directory = tmp_path_factory.mktemp("base")
    tiny.sd3_pipeline().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory):
    """A folder of eight captioned images."""
    from tests import tiny

    directory = tmp_path_factory.mktemp("data") / "images"
    tiny.image_folder(directory)
    return directory


def pytest_addoption(parser):
    parser.addoption(
        "--kill-points",
        type=int,
        default=24,
        help="How many kills the slow test of killed runs tries (300 is thorough).",
    )
