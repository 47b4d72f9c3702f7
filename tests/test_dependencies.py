"""The package imports only what its dependencies declare or are known to bring."""

import ast
import re
import sys
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = {"PIL": "pillow", "bitsandbytes": "bitsandbytes", "comet_ml": "comet-ml", "av": "av", "yaml": "pyyaml"}
BROUGHT = {
    "numpy": "transformers",
    "pandas": "datasets",
    "pillow": "diffusers",
    "pyarrow": "datasets",
    "pyyaml": "huggingface_hub",
    "fsspec": "huggingface_hub",
    "starlette": "gradio",
    "typing-extensions": "huggingface_hub",
}
"""Packages that we import and do not declare, with the declared package that requires them."""


def imported_packages() -> set[str]:
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names and name != "diffusers_twinflow"}


def declared_packages() -> set[str]:
    names = [re.match(r"[\w-]+", text)[0] for text in requires("diffusers-twinflow")]
    return {name.lower().replace("_", "-") for name in names}


def test_every_imported_package_is_declared():
    declared = declared_packages()
    packages = {NAMES.get(name, name).lower().replace("_", "-") for name in imported_packages()}
    brought = {package for package in packages if BROUGHT.get(package, "").replace("_", "-") in declared}
    assert packages - declared - brought == set()
