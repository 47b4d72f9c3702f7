"""Importing the package is fast and prints nothing, and all public names exist."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import pytest

import diffusers_twinflow

LAZY = (
    "",
    ".data",
    ".evaluation",
    ".evaluation.metrics",
    ".families",
    ".hub",
    ".methods",
    ".models",
    ".pipelines",
    ".schedulers",
    ".schedulers.scheduling_twinflow",
    ".training",
)
HEAVY = {"accelerate", "datasets", "diffusers.pipelines", "peft", "transformers"}
TIMED = 9


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def test_importing_is_silent_and_changes_no_logging():
    code = """
import json, logging, sys, warnings
before = (logging.root.level, list(logging.root.handlers), list(warnings.filters), set(logging.root.manager.loggerDict))
import diffusers_twinflow
import diffusers_twinflow.data, diffusers_twinflow.families, diffusers_twinflow.hub, diffusers_twinflow.pipelines
after = (logging.root.level, list(logging.root.handlers), list(warnings.filters), set(logging.root.manager.loggerDict))
print(json.dumps([before == after, sorted({"torch", "diffusers", "transformers", "peft"} & sys.modules.keys())]))
"""
    done = run("-c", code)
    assert json.loads(done.stdout) == [True, []] and done.stderr == ""


@pytest.mark.long
def test_the_scheduler_needs_no_model_or_pipeline():
    code = "import sys\nfrom diffusers_twinflow import TwinFlowScheduler\nprint(*sys.modules)"
    done = run("-c", code)
    loaded = set(done.stdout.split())
    assert "diffusers_twinflow.schedulers.twinflow_scheduler" in loaded and not HEAVY & loaded
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.parametrize(
    "ours, theirs, ratio",
    [
        (
            ["-c", "from diffusers_twinflow import TwinFlowScheduler"],
            ["-c", "from diffusers import FlowMatchEulerDiscreteScheduler"],
            1.3,
        ),
        (["-m", "diffusers_twinflow.cli", "--help"], ["-c", "import torch"], 1.5),
        (["-m", "diffusers_twinflow.cli", "train", "--help"], ["-c", "import torch"], 1.5),
    ],
    ids=["scheduler", "help", "train help"],
)
def test_the_time_of_an_import(ours, theirs, ratio):
    """Runs alternate, so that other work on the machine slows both."""
    times = [(seconds(*ours), seconds(*theirs)) for _ in range(TIMED)]
    mine, stock = (median(column) for column in zip(*times, strict=True))
    assert mine < ratio * stock, f"{mine:.2f} s against {stock:.2f} s"


def test_every_public_name_is_there():
    for name in diffusers_twinflow.__all__:
        value = getattr(diffusers_twinflow, name)
        assert getattr(value, "__name__", name) == name
    assert set(diffusers_twinflow.__all__) == set(diffusers_twinflow.MODULES) <= set(dir(diffusers_twinflow))
    assert diffusers_twinflow.hub.load_twinflow_lora is diffusers_twinflow.load_twinflow_lora
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        diffusers_twinflow.nope  # noqa: B018


@pytest.mark.parametrize("name", LAZY)
def test_type_checkers_see_the_names_that_are_imported_late(name):
    module = importlib.import_module(f"diffusers_twinflow{name}")
    tree = ast.parse(Path(module.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports if node.module for alias in node.names}
    submodules = {alias.name for node in imports if not node.module for alias in node.names}
    assert sorted(seen) == sorted(module.__all__) and {*seen, *submodules} <= set(dir(module))
    if hasattr(module, "MODULES"):
        assert {public: f".{home}" for public, home in seen.items()} == module.MODULES
    for submodule in submodules:
        assert getattr(module, submodule) is importlib.import_module(f".{submodule}", module.__name__)
    for public in seen:
        value = getattr(module, public)
        assert vars(module)[public] is value, "a second look costs nothing"


def test_the_version_is_that_of_the_distribution():
    assert diffusers_twinflow.__version__ == version("diffusers-twinflow")


def test_options_need_no_extra_and_data_names_it():
    code = """
import sys
sys.modules["torchdata"] = None
from diffusers_twinflow.cli.main import main
from diffusers_twinflow.data import DataConfig
from diffusers_twinflow.training.arguments import TrainingArguments
try:
    from diffusers_twinflow.data import TrainingData
except ModuleNotFoundError as error:
    print(error)
main(["train", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(torchdata)" in done.stdout and 'pip install "diffusers-twinflow[train]"' in done.stdout
    assert "--pretrained_model_name_or_path" in done.stdout


@pytest.mark.parametrize("name", LAZY)
def test_no_name_is_that_of_a_submodule(name):
    """A package has its submodules as attributes once they are imported, in place of a lazy name."""
    package = importlib.import_module(f"diffusers_twinflow{name}")
    submodules = {found.name for found in pkgutil.iter_modules(getattr(package, "__path__", ()))}
    assert not submodules & {*package.__all__}
