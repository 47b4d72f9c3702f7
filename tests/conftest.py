"""Imports no more than it must: the process that hands tests to others reads this and runs none."""

import gc
import io
import logging
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

LOG_CAPTURE = "logging-plugin"  # pytest's name for it
log_capture = pytest.StashKey[object]()
own_log = pytest.StashKey[logging.StreamHandler]()


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


def pytest_collection_modifyitems(items):
    """Long tests come first: one that starts at the end leaves the other processors idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Let pytest capture logs only for tests that read them: it goes through a thousand loggers six times per test."""
    plugins, reads_logs = item.config.pluginmanager, "caplog" in item.fixturenames
    if not reads_logs and plugins.has_plugin(LOG_CAPTURE):
        item.config.stash[log_capture] = plugins.unregister(name=LOG_CAPTURE)
    elif reads_logs and not plugins.has_plugin(LOG_CAPTURE):
        plugins.register(item.config.stash[log_capture], LOG_CAPTURE)
    if reads_logs:
        return (yield)
    item.stash[own_log] = logging.StreamHandler(io.StringIO())
    logging.root.addHandler(item.stash[own_log])
    try:
        return (yield)
    finally:
        logging.root.removeHandler(item.stash[own_log])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed and own_log in item.stash:
        report.sections.append(("Captured log", item.stash[own_log].stream.getvalue()))
    return report


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
