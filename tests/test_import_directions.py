"""Imports point one way: a package imports what is below it in `LAYERS`, and nothing above."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "diffusers_twinflow"
LAYERS = (
    {
        "lazy_names",
        "lenient_json",
        "ranges",
        "installed_diffusers",
        "writing",
        "flow",
        "conditions",
        "nested",
        "sharding",
    },
    {"options", "diff2flow", "sampling_calls"},
    {"recommended"},
    {"configuration"},
    {"image_files", "models", "schedulers"},
    {"families"},
    {"methods"},
    {"data", "hub"},
    {"pipelines", "integrations"},
    {"evaluation"},
    {"training"},
    {"cli"},
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported_modules(path: Path):
    """The modules of this package that a file imports, anywhere in it, as parts of their names within the package."""
    package = path.relative_to(SOURCE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1]
            module = (*base, *(node.module.split(".") if node.module else ()))
        elif (node.module or "").split(".")[0] == SOURCE.name:
            module = tuple(node.module.split(".")[1:])
        else:
            continue
        yield from [module] if module else [(alias.name,) for alias in node.names]


def test_every_module_has_a_layer():
    names = {path.stem for path in SOURCE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert names - {"__init__", "__pycache__", "py"} == RANKS.keys()


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_imports_only_from_its_layer_or_below(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imported_modules(path):
        if module[0] in RANKS and module[0] != own:
            assert RANKS[module[0]] < RANKS[own], ".".join(module)
