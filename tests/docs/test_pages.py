"""What the pages name exists: files, options, names to import, messages of the code."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from pkgutil import resolve_name
from urllib.parse import unquote

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from diffusers_twinflow.cli import train
from diffusers_twinflow.cli.flags import name_flags
from diffusers_twinflow.cli.main import build_parser as build_cli_parser
from diffusers_twinflow.families import FAMILIES
from tests.docs.pages import CODE, PAGES, ROOT, anchors, blocks, links, tokens

OPTION = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
QUOTE = re.compile(r"```text\n(.*?)\n```\n+(?:A warning|`\w+`) from `([\w.]+)`", re.S)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def option_strings(parser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found = found.union(*map(option_strings, action.choices.values()))
    return found


TRAINING = option_strings(train.build_parser())
(COMMANDS,) = (action.choices for action in build_cli_parser()._actions if isinstance(action.choices, dict))
COMMAND_LINE = option_strings(build_cli_parser())
LAUNCHERS = {
    "accelerate launch": option_strings(launch_command_parser()),
    "torchrun": option_strings(get_args_parser()),
}


def known_options(code: str) -> set[str]:
    """The options of the commands that a piece of code calls, or of training and the command line."""
    commands = re.findall(r"^\s*diffusers-twinflow (\w+)", code, re.M)
    if commands:
        return set().union(*(option_strings(COMMANDS[name]) for name in commands))
    others = [ROOT / path for path in re.findall(r"\S+\.py", code) if not path.endswith("train_twinflow.py")]
    if others:
        return {option for script in others for option in OPTION.findall(script.read_text(encoding="utf-8"))}
    launcher = next((options for name, options in LAUNCHERS.items() if name in code), COMMAND_LINE)
    return TRAINING | launcher


def unknown_options(text: str) -> list[str]:
    pieces = [token.content for token in tokens(text) if token.type in (*CODE, "text")]
    return [option for piece in pieces for option in OPTION.findall(piece) if option not in known_options(piece)]


def absent_imports(code: str) -> list[str]:
    """Names that a piece of Python imports and that do not exist."""
    absent = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            absent += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    return absent


def messages_of(name: str) -> list[str]:
    """The texts in the source of an object, with "…" for what is filled in; those that name options also with flags."""
    source = textwrap.dedent(inspect.getsource(resolve_name(name)))
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found + [name_flags(text, train.build_parser()) for text in found]


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page to files that are not there, or to headings that such a page does not have."""
    broken = []
    for link in links(text):
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@each_page
def test_links_point_at_files_and_headings_that_are_there(page):
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@each_page
def test_options_exist(page):
    assert unknown_options(page.read_text(encoding="utf-8")) == []


@each_page
def test_python_blocks_import_what_exists(page):
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        assert absent_imports(code) == []


@each_page
def test_recipes_are_read(page, tmp_path):
    for number, recipe in enumerate(blocks(page.read_text(encoding="utf-8"), "json")):
        path = tmp_path / f"{number}.json"
        path.write_text(recipe, encoding="utf-8")
        assert train.parse_args(["--config", str(path)]).arguments.pretrained_model_name_or_path


PAGE_OF_MESSAGES = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTES = QUOTE.findall(PAGE_OF_MESSAGES)


def test_every_message_says_where_it_comes_from():
    assert len(QUOTES) == len(blocks(PAGE_OF_MESSAGES, "text")) > 0


@pytest.mark.parametrize("message, name", QUOTES, ids=[name.rsplit(".", 1)[-1] for _, name in QUOTES])
def test_messages_are_those_of_the_code(message, name):
    message = " ".join(message.split())
    assert any(message in text for text in messages_of(name)), message


def test_recipes_name_every_family_and_configuration():
    page = ROOT / "docs" / "recipes.md"
    text = page.read_text(encoding="utf-8")
    assert {name for name in FAMILIES if f"`{name}`" not in text} == set()
    linked = {(page.parent / link).resolve() for link in links(text)}
    assert {path for path in (ROOT / "hub_configs").iterdir() if path.is_dir()} <= linked


def test_the_index_has_every_page():
    index = ROOT / "docs" / "README.md"
    linked = {index.parent / link for link in links(index.read_text(encoding="utf-8"))}
    assert set(index.parent.glob("*.md")) - {index} <= linked


def test_what_is_not_there_is_found():
    assert broken_links(ROOT / "x.md", "[a](README.md#use) [b](README.md#nothing) [c](none.md)") == [
        "README.md#nothing",
        "none.md",
    ]
    assert links("[a](b.md) ![c](d.png) [e](https://f)") == ["b.md", "d.png"]
    assert unknown_options("`--rank 4 --rankk 4`") == ["--rankk"]
    launch = "accelerate launch --num_processes 2 --nope -m diffusers_twinflow.cli train --rank 4"
    assert unknown_options(f"`{launch}`") == ["--nope"]
    assert unknown_options("`diffusers-twinflow push --rank`") == ["--rank"]
    assert absent_imports("from diffusers_twinflow import TwinFlowScheduler, Nothing") == [
        "diffusers_twinflow.Nothing"
    ]
