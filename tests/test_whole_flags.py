"""No script takes a shortened flag, whose meaning could change when an option is added."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path for folder in ("benchmarks", "docs", "examples", "src") for path in sorted((ROOT / folder).rglob("*.py"))
]


def parsers(path: Path) -> list[ast.Call]:
    """The calls that build a parser of argparse itself; those of our own class are tested in tests/cli."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) in ("argparse.ArgumentParser", "ArgumentParser")]


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if parsers(path)], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_a_script_takes_only_whole_flags(path):
    for parser in parsers(path):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in parser.keywords}
        assert given.get("allow_abbrev") == "False", f"line {parser.lineno}"
